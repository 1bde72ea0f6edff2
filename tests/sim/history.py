"""What clients and subscribers saw, in virtual time: the only input of the checkers beside the log.

A row of the simulated table is a list of operation numbers (each write adds its own), so every
write is told apart from every other in whatever is read, committed or streamed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto

from kalamdb.model.change import Op
from kalamdb.model.ids import Partition, Seq

OPEN_END_S = float("inf")

Elements = tuple[int, ...]

NO_SEQ = Seq(0)


class Kind(Enum):
    INSERT = auto()
    APPEND = auto()
    DELETE = auto()
    READ = auto()
    TRANSFER = auto()  # a transaction that appends to all its keys


class Result(Enum):
    OK = auto()
    REFUSED_KEY = auto()  # the primary key is taken
    REFUSED_UNIQUE = auto()  # the UNIQUE value is taken
    FAILED = auto()  # surely not done
    UNKNOWN = auto()


@dataclass(slots=True)
class Operation:
    """One call of a client, retries included.

    `found` is what a read or RETURNING gave: the row's elements, None for no row. `founds` is that
    for each key of a transfer, None when its statements' answers are not known. `seq` is the
    outcome's.
    """

    number: int
    kind: Kind
    partition: Partition
    keys: tuple[int, ...]
    start_s: float
    unique: int | None = None
    slow: bool = False  # worked out on a snapshot, put with what was read
    request_id: str | None = None
    end_s: float = OPEN_END_S
    result: Result = Result.UNKNOWN
    affected: int = 0
    found: Elements | None = None
    founds: tuple[Elements, ...] | None = None
    seq: Seq = NO_SEQ
    attempts: int = 0

    @property
    def writes(self) -> bool:
        return self.kind is not Kind.READ

    def at(self, key: int) -> Operation:
        """What it was for one of its keys alone."""
        if self.kind is not Kind.TRANSFER:
            return self
        one = replace(self, kind=Kind.APPEND, keys=(key,))
        if self.result is Result.OK:
            if self.founds is None:
                return replace(one, result=Result.UNKNOWN)  # done, and it is not known on what
            one.affected = len(self.founds) and 1
            one.found = self.founds[self.keys.index(key)] if self.founds else None
        return one


@dataclass(frozen=True, slots=True)
class Frame:
    """One change as streamed: `after` are the row's elements, None when it is deleted."""

    seq: Seq
    prev_seq: Seq
    op: Op
    key: bytes
    after: Elements | None
    last_of_txn: bool


@dataclass(frozen=True, slots=True)
class Began:
    """A stream began with a snapshot: its seq, the chain's newest change, all rows."""

    seq: Seq
    last_change: Seq
    rows: tuple[tuple[bytes, Elements], ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A stream went on from a cursor; everything up to `position` came from the change log."""

    cursor: Seq


@dataclass(frozen=True, slots=True)
class Expired:
    """The cursor was refused, while the group had this change floor and this seq."""

    cursor: Seq
    reason: str
    floor: Seq
    seq_last: Seq


Sighting = Began | Resumed | Expired | Frame


@dataclass(slots=True)
class Subscription:
    """All a subscriber saw of one partition, in order; `cursor` is what it would resume from."""

    number: int
    partition: Partition
    seen: list[Sighting] = field(default_factory=list[Sighting])
    cursor: Seq | None = None


@dataclass(slots=True)
class History:
    operations: list[Operation] = field(default_factory=list[Operation])
    subscriptions: list[Subscription] = field(default_factory=list[Subscription])
