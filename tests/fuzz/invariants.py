"""What must hold of a node's bytes whatever was sent to it, read without the code that wrote it.

Index, UNIQUE, SEQ and EXPIRY entries are those of the rows; every chain of changes is linked by
`prev_seq` and ends where LAST says; every change finds its row versions; the catalog, folded again
from its records, is the catalog in force; the mark is above every number that was given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from kalamdb.model import codec, keys
from kalamdb.model.change import Op, Row
from kalamdb.model.ids import Partition, Seq, TableId
from kalamdb.model.keys import Family
from kalamdb.model.table import IndexState, TableDef
from kalamdb.store import catalog
from kalamdb.store.catalog_codec import decode_fence
from kalamdb.store.memory import MemoryStore
from tests.small_node import SmallNode

Place = tuple[TableId, Partition]


@dataclass
class Group:
    """One group's bytes by what they mean."""

    rows: dict[Place, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    versions: dict[Place, set[tuple[bytes, int]]] = field(default_factory=lambda: defaultdict(set))
    seqs: dict[Place, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    expiries: dict[Place, set[int]] = field(default_factory=lambda: defaultdict(set))
    entries: dict[tuple[int, Place], dict[bytes, bytes]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    changes: dict[Place, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    lasts: dict[Place, int] = field(default_factory=dict)
    tables: dict[TableId, TableDef] = field(default_factory=dict)


def check(node: SmallNode) -> None:
    """Raises AssertionError for the first that does not hold."""
    for store in node.stores.values():
        group = read(store)
        check_chains(group, store.mark().seq_last)
        for place, rows in group.rows.items():
            check_seqs(group, place, rows)
        check_entries(group)
    meta = node.replicas[min(node.replicas)]
    assert catalog.load(node.stores[min(node.stores)]) == meta.catalog, "the catalog's records"


def read(store: MemoryStore) -> Group:
    group = Group()
    for key, value in store.scan(b"", b"\xff"):
        match key[0]:
            case Family.FENCE:
                fence = decode_fence(value)
                group.tables[fence.table.id] = fence.table
            case Family.ROW:
                place, rest = _split(key, 1)
                codec.decode_row(value)
                group.rows[place][rest] = value
                group.versions[place].add((rest, codec.row_seq(value)))
            case Family.HISTORY:
                place, rest = _split(key, 1)
                newer, old = codec.decode_history(value)
                seq = codec.decode_seq(rest[-8:])
                assert codec.row_seq(old) == seq < newer, "a superseded version"
                group.versions[place].add((rest[:-8], seq))
            case Family.SEQ:
                place, rest = _split(key, 1)
                group.seqs[place][codec.decode_seq(rest)] = value
            case Family.EXPIRY:
                place, rest = _split(key, 5)
                group.expiries[place].add(codec.decode_seq(rest))
            case Family.INDEX | Family.UNIQUE:
                table = keys.table_of(key)
                partition, _ = keys.split_terminated(key, 7)
                group.entries[keys.index_of(key), (table, Partition(partition))][key] = value
            case Family.CHANGE:
                place, rest = _split(key, 5)
                group.changes[place].append((codec.decode_seq(rest), value))
            case Family.LAST:
                place, rest = _split(key, 1)
                assert rest == b""
                group.lasts[place] = codec.decode_seq(value)
            case _:
                pass
    return group


def _split(key: bytes, at: int) -> tuple[Place, bytes]:
    """The table and partition of a key whose table stands at `at`, and what follows them."""
    table = TableId(keys.U32.unpack_from(key, at)[0])
    partition, end = keys.split_terminated(key, at + 4)
    return (table, Partition(partition)), key[end:]


def check_chains(group: Group, newest: Seq) -> None:
    for place, changes in group.changes.items():
        before = 0
        for number, (seq, raw) in enumerate(sorted(changes)):
            op, prev_seq, before_seq, _, pk = codec.decode_change(raw)
            assert number == 0 or prev_seq == before, f"a gap before {seq} in {place}"
            assert prev_seq < seq <= newest
            known = group.versions[place]
            if op not in (Op.DELETE, Op.EXPIRE):
                assert (pk, seq) in known, f"change {seq} of {place} finds no row"
            assert not before_seq or (pk, before_seq) in known, f"change {seq}: no row before"
            before = seq
        assert group.lasts[place] == before, f"LAST of {place}"
    assert max(group.lasts.values(), default=0) <= newest


def check_seqs(group: Group, place: Place, rows: dict[bytes, bytes]) -> None:
    expected = {codec.row_seq(raw): pk for pk, raw in rows.items()}
    assert group.seqs[place] == expected, f"SEQ entries of {place}"
    table = group.tables.get(place[0])
    if table is not None and table.options.ttl_s is not None and not table.has_tombstones:
        assert group.expiries[place] == set(expected), f"EXPIRY entries of {place}"


def check_entries(group: Group) -> None:
    """Of indexes that are there: those of dropped ones may be on their way out."""
    for place in group.rows:
        table = group.tables.get(place[0])
        if table is None:
            continue
        live = list(_live(table, group.rows[place]))
        for index in table.indexes:
            assert index.state is IndexState.READY, f"{index.name} is still being built"
            wanted = {
                keys.index(
                    place[0], index.id, place[1], _values(table, index.columns, row), pk
                ): b""
                for pk, row in live
            }
            assert group.entries[index.id, place] == wanted, f"index {index.name} of {place}"
        for unique in table.uniques:
            wanted = {}
            for pk, row in live:
                if any(row.get(column) is None for column in unique.columns):
                    continue
                values = _values(table, unique.columns, row)
                key = keys.unique(place[0], unique.id, place[1], values)
                assert key not in wanted, f"{unique.name} of {table.full_name}: a value twice"
                wanted[key] = pk
            assert group.entries[unique.id, place] == wanted, f"{unique.name} of {place}"


def _live(table: TableDef, rows: dict[bytes, bytes]) -> Iterator[tuple[bytes, Row]]:
    for pk, raw in rows.items():
        row = codec.decode_row(raw)[1]
        if row is None:
            continue
        yield pk, table.complete(row)


def _values(table: TableDef, columns: tuple[int, ...], row: Row) -> bytes:
    types = [table.by_id[column].type for column in columns]
    return keys.encode_key(types, [row.get(column) for column in columns])
