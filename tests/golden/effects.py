"""Effects of an entry in words, for golden scripts: `put row app.notes/alice [1]`."""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.model import codec, keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.change import Op
from kalamdb.model.ids import Seq, TableId
from kalamdb.model.keys import Family


class Names:
    """Stable names for seqs, in the order they are met: S1, S2 …"""

    def __init__(self) -> None:
        self._seqs: dict[int, str] = {0: "S0"}

    def seq(self, number: int) -> str:
        return self._seqs.setdefault(number, f"S{len(self._seqs)}")

    def text(self, text: str) -> str:
        """A result with known seqs named. Longest first, so that none is cut in half."""
        for number, name in sorted(self._seqs.items(), key=lambda each: -each[0]):
            if number:
                text = text.replace(str(number), name)
        return text


def described(payload: bytes, catalog: CatalogView, names: Names) -> Iterator[str]:
    """One line per effect that stands for rows, uniqueness or changes."""
    for command in codec.decode_entry(payload).commands:
        for key, value in command.effects:
            line = _effect(key, value, catalog, names)
            if line is not None:
                yield line


def _effect(key: bytes, value: bytes | None, catalog: CatalogView, names: Names) -> str | None:
    family = Family(key[0])
    verb = "del" if value is None else "put"
    match family:
        case Family.ROW:
            return f"{verb} row {_place(key, 1, catalog)}{_row(value, names)}"
        case Family.HISTORY:
            assert value is not None
            new, old = codec.decode_history(value)
            seqs = f"{names.seq(codec.row_seq(old))} → {names.seq(new)}"
            return f"{verb} history {_place(key[:-8], 1, catalog)} {seqs}"
        case Family.UNIQUE:
            table = catalog.tables_by_id[TableId(keys.U32.unpack_from(key, 1)[0])]
            return f"{verb} unique {table.full_name}"
        case Family.INDEX:
            return f"{verb} index {_entry(key, catalog)}"
        case Family.CHANGE:
            assert value is not None
            op, prev_seq, before_seq, last, _ = codec.decode_change(value)
            seq = keys.U64.unpack_from(key, len(key) - 8)[0]
            end = "" if last else " more"
            before = f" before={names.seq(before_seq)}" if before_seq else ""
            return (
                f"{verb} change {Op(op).name.lower()} {names.seq(seq)} "
                f"prev={names.seq(prev_seq)}{before}{end}"
            )
        case Family.REQUEST:
            return f"{verb} request"
        case _:
            return None


def _entry(key: bytes, catalog: CatalogView) -> str:
    """Index, user, values and primary key; an index being built is in the pending definition."""
    number = TableId(keys.U32.unpack_from(key, 1)[0])
    for table in (catalog.tables_by_id[number], catalog.pending.get(number)):
        for index in () if table is None else table.indexes:
            if table is not None and index.id == keys.index_of(key):
                partition, after = keys.split_terminated(key, 7)
                columns = [*(table.by_id[one] for one in index.columns), *table.key_columns]
                values = keys.decode_key([column.type for column in columns], key[after:])
                return f"{index.name}/{partition[1:].decode()} {values}"
    return "of a dropped one"


def _place(key: bytes, at: int, catalog: CatalogView) -> str:
    table = catalog.tables_by_id[TableId(keys.U32.unpack_from(key, at)[0])]
    partition, after = keys.split_terminated(key, at + 4)
    who = partition[1:].decode() if partition[:1] == b"t" else "shared"
    pk = keys.decode_key([column.type for column in table.key_columns], key[after:])
    return f"{table.full_name}/{who} {pk}"


def _row(value: bytes | None, names: Names) -> str:
    if value is None:
        return ""
    seq, row = codec.decode_row(value)
    return f" {names.seq(Seq(seq))} {'tombstone' if row is None else row}"
