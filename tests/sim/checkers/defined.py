"""A data group holds what its definitions say: entries of indexes are the values of rows, and rows
keep the constraints that are in force.

A definition that is being proven (the fence's, until it is active) is only half of it: an index
being built has entries of rows written since, and none that is not a row's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from kalamdb.model import codec, keys
from kalamdb.model.change import Row
from kalamdb.model.ids import Partition, TableId, seq_hour
from kalamdb.model.keys import Family
from kalamdb.model.table import Index, IndexState, TableDef, TableKind, Unique
from kalamdb.sql.constraint import checks
from kalamdb.store.catalog_codec import FenceState, decode_fence
from tests.sim.rows import LIST_COLUMN, VERSION_COLUMN, Versions, fault_of

State = Mapping[bytes, bytes]
Active = Mapping[TableId, TableDef]
Live = list[tuple[Partition, bytes, Row]]

_OF_TABLES = (Family.ROW, Family.SEQ, Family.HISTORY, Family.INDEX, Family.UNIQUE, Family.LAST)


def faults(state: State, versions: Versions, active: Active) -> Iterator[str]:
    """Everything a group's keys say that is not so. `active` are the catalog's definitions."""
    by_table: dict[TableId, dict[int, dict[bytes, bytes]]] = defaultdict(lambda: defaultdict(dict))
    for key, value in state.items():
        if key[0] in _OF_TABLES:
            by_table[keys.table_of(key)][key[0]][key] = value
        elif key[0] == Family.EXPIRY:
            by_table[TableId(keys.U32.unpack_from(key, 5)[0])][key[0]][key] = value
    for key, value in state.items():
        if key[0] != Family.FENCE:
            continue
        fence = decode_fence(value)
        found = by_table.pop(fence.table.id, {})
        if fence.state is FenceState.ACTIVE:
            now = active.get(fence.table.id)
            yield from _faults_of(fence.table, now, found, versions)
        elif fence.state is FenceState.PURGED and any(found.values()):
            yield f"{fence.table.full_name} is purged and has {_some(found)}"
    for table, found in by_table.items():
        yield f"there is no fence for table {table}, which has {_some(found)}"


def _some(found: Mapping[int, Mapping[bytes, bytes]]) -> str:
    return str([key for held in found.values() for key in list(held)[:1]])


def _faults_of(
    table: TableDef,
    active: TableDef | None,
    found: Mapping[int, Mapping[bytes, bytes]],
    versions: Versions,
) -> Iterator[str]:
    name = f"{table.full_name} version {table.version}"
    live: Live = []
    seqs: set[bytes] = set()
    expiries: set[bytes] = set()
    read = codec.row_reader(table)
    start = len(keys.table_rows(table.id))
    for key, value in found.get(Family.ROW, {}).items():
        raw_partition, at = keys.split_terminated(key, start)
        partition, pk = Partition(raw_partition), key[at:]
        seq, row = read(value)
        seqs.add(keys.seq(table.id, partition, seq) + pk)
        if row is not None:
            live.append((partition, pk, row))
            expiries.add(keys.expiry(seq_hour(seq), table.id, partition, seq))
    held = {key + pk for key, pk in found.get(Family.SEQ, {}).items()}
    if held != seqs:
        yield f"{name}: {_difference('SEQ', held, seqs)}"
    if table.kind is TableKind.STREAM and found.get(Family.EXPIRY, {}).keys() != expiries:
        yield f"{name}: {_difference('EXPIRY', set(found.get(Family.EXPIRY, {})), expiries)}"
    for _, _, row in live:
        fault = fault_of(table, versions, row)
        if fault is not None:
            yield f"{name}: {fault}"
    for index in (*table.indexes, *table.uniques):
        yield from _index_faults(name, table, index, found, live)
    if active is not None:
        yield from _constraint_faults(name, table, active, live)


def _difference(what: str, held: set[bytes], wanted: set[bytes]) -> str:
    missing, extra = sorted(wanted - held), sorted(held - wanted)
    return f"{what} lacks {missing[:2]}, has {extra[:2]} beyond its rows"


def _index_faults(
    name: str,
    table: TableDef,
    index: Index | Unique,
    found: Mapping[int, Mapping[bytes, bytes]],
    live: Live,
) -> Iterator[str]:
    name = f"{name}, index {index.name} ({index.state.value})"
    family = Family.UNIQUE if isinstance(index, Unique) else Family.INDEX
    prefix = keys.index_entries(family, table.id, index.id)
    held = {
        key + pk if family is Family.UNIQUE else key
        for key, pk in found.get(family, {}).items()
        if key.startswith(prefix)
    }
    entry = _entry_of(table, index)
    entries = [(entry(partition, pk, row), row) for partition, pk, row in live]
    wanted = {key for key, _ in entries if key is not None}
    if index.state is IndexState.READY:
        if held != wanted:
            yield f"{name}: {_difference('it', held, wanted)}"
        if isinstance(index, Unique):
            yield from _unique_faults(name, table, index, live)
        return
    if held - wanted:
        yield f"{name}: {_difference('it', held, wanted)}"
    # An UPDATE that leaves the values as they are leaves their entry to the steps.
    since = {
        key
        for key, row in entries
        if key and row[VERSION_COLUMN] == table.version and "," not in row[LIST_COLUMN]
    }
    if since - held:
        yield f"{name}: entries of rows since the fence are missing: {sorted(since - held)[:2]}"


def _entry_of(
    table: TableDef, index: Index | Unique
) -> Callable[[Partition, bytes, Row], bytes | None]:
    types = [table.by_id[column].type for column in index.columns]

    def entry(partition: Partition, pk: bytes, row: Row) -> bytes | None:
        values = [row.get(column) for column in index.columns]
        if isinstance(index, Index):
            return keys.index(table.id, index.id, partition, keys.encode_key(types, values), pk)
        if None in values:
            return None
        return keys.unique(table.id, index.id, partition, keys.encode_key(types, values)) + pk

    return entry


def _unique_faults(name: str, table: TableDef, unique: Unique, live: Live) -> Iterator[str]:
    seen: dict[tuple[object, ...], bytes] = {}
    for partition, pk, row in live:
        values = tuple(row.get(column) for column in unique.columns)
        if None not in values and seen.setdefault((partition, *values), pk) != pk:
            yield f"{name}: two rows of {partition.decode()} have {values}"


def _constraint_faults(name: str, table: TableDef, active: TableDef, live: Live) -> Iterator[str]:
    """What the active definition says, and the fence's still does, holds of every row."""
    required = [
        column
        for column in table.columns
        if not column.nullable
        and (known := active.by_id.get(column.id)) is not None
        and not known.nullable
    ]
    standing = {check.sql for check in active.checks}
    held = [
        (check, holds)
        for check, (_, holds) in zip(table.checks, checks(table), strict=True)
        if check.sql in standing
    ]
    for _, _, row in live:
        for column in required:
            if row.get(column.id) is None:
                yield f"{name}: NOT NULL column {column.name} is NULL in {row}"
        for check, holds in held:
            if holds(row) is False:
                yield f"{name}: CHECK ({check.sql}) does not hold of {row}"
