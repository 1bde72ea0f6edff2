"""How much a sequencer may hold, and how much it does."""

from __future__ import annotations

from dataclasses import dataclass

from kalamdb.errors import LimitReached
from kalamdb.model.command import RETURNED_MAX_BYTES, STATEMENT_EFFECTS_MAX_BYTES
from kalamdb.model.work import CommitRows, InsertRows, PutRows


@dataclass(frozen=True, slots=True)
class SequencerLimits:
    commands_max: int = 50_000  # decided and not applied
    queue_bytes_max: int = 64 << 20  # encoded and not taken
    effects_bytes_max: int = STATEMENT_EFFECTS_MAX_BYTES
    rows_max: int = 50_000  # written by one statement, or one COMMIT
    returned_bytes_max: int = RETURNED_MAX_BYTES  # by RETURNING of one statement
    chains_max: int = 100_000
    request_ids_max: int = 250_000  # of one tenant


def check_rows(asked: InsertRows | PutRows | CommitRows, rows_max: int) -> None:
    """All rows of a statement are decided in one step, and nothing else is meanwhile.

    Raises LimitReached.
    """
    match asked:
        case CommitRows():
            count, what = sum(len(table.rows) for table in asked.tables), "the transaction"
        case _:
            count, what = len(asked.rows), "the statement"
    if count > rows_max:
        raise LimitReached(
            "max_statement_rows", f"{what} writes {count} rows, at most {rows_max} are decided"
        )


@dataclass(frozen=True, slots=True)
class SequencerStatistics:
    term: int
    ready: bool
    queued: int
    queued_bytes: int
    in_flight: int
    overlay_keys: int
    verdicts: int
    decided: int
    refused: int
