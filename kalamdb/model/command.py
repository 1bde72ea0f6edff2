"""The replicated unit: effects the leader decided, with the outcome they answer.

An *effect* is a key (family first, without group and incarnation) and its new value, or None to
delete it. An *entry* is what one log record carries: the commands of one group commit. Apply puts
effects and reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalamdb.model.ids import Seq

Effect = tuple[bytes, bytes | None]

ENTRY_SIZE_MAX_BYTES = 1 << 20
STATEMENT_EFFECTS_MAX_BYTES = 64 << 20
RETURNED_MAX_BYTES = 64 << 20
OUTCOME_SIZE_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a write answers: counts by kind, the seq it is current to, RETURNING rows if asked.

    `rows` are JSON-ready lists in the order of `columns`; both None without RETURNING.
    """

    affected: int
    seq: Seq
    columns: tuple[str, ...] | None = None
    rows: tuple[tuple[object, ...], ...] | None = None
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """One statement's (or transaction's) effects. `request_key` is the REQUEST key, None without an
    id.
    """

    effects: tuple[Effect, ...]
    request_key: bytes | None = None
    hash: bytes = b""
    outcome: bytes = b""

    @property
    def whole(self) -> None:
        """What a staged command's chunks hold is not in its commit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`prev_seq` is the `seq_last` of the entry before; apply asserts the chain."""

    term: int
    prev_seq: Seq
    seq_last: Seq
    time_ms: int
    commands: tuple[Command, ...]
