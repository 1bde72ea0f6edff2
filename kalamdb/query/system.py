"""Rows of virtual tables on their way to the query engine: stored values, as rows of a table are.

Who knows what a table says is not decided here (`session/system_tables.py`); a query asks once,
when it opens its sources, and the rows are encoded in the thread that feeds the worker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from kalamdb.model import codec
from kalamdb.model.ids import Seq
from kalamdb.sql.virtual import VirtualTable

Values = Sequence[object]
"""One row: stored values in the order of the table's columns."""

OpenVirtual = Callable[[VirtualTable], Awaitable[Iterable[Values]]]
"""The rows of a table as one principal may see them. Raises UnknownTable when this node has nothing
to say about it.
"""


def encoded(table: VirtualTable, rows: Iterable[Values]) -> Iterator[tuple[bytes, bytes]]:
    """Rows as a snapshot would give them; their keys are not used."""
    ids = [column.id for column in table.columns]
    for row in rows:
        assert len(row) == len(ids), f"a row of {table.full_name} has {len(row)} values"
        kept = {
            column_id: value for column_id, value in zip(ids, row, strict=True) if value is not None
        }
        yield b"", codec.encode_row(Seq(0), kept)
