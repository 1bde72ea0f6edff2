"""A member that lags applies changes and the trim that removes them in one batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

from kalamdb.apply.machine import Machine
from kalamdb.errors import KalamError
from kalamdb.model import codec, keys, types
from kalamdb.model.change import Change, ChangeBatch, Op
from kalamdb.model.command import Command, Effect
from kalamdb.model.ids import (
    GroupId,
    Partition,
    Seq,
    Slot,
    TableId,
    TenantId,
    tenant_partition,
)
from kalamdb.model.table import TableDef
from kalamdb.ports import LogEntry
from kalamdb.store.memory import MemoryStore

TABLE, GROUP = TableId(7), GroupId(1)
ALICE: Partition = tenant_partition(TenantId("alice"))
PK = keys.encode_key((types.BIGINT,), (1,))
FIRST, SECOND = Seq(1 << 32 | 1), Seq(2 << 32 | 1)


class Watching:
    """A sink in which every chain is watched."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def watches(self, chain: bytes) -> bool:
        return True

    def publish(self, batch: ChangeBatch) -> None:
        self.changes += batch.changes

    def close_table(self, table: int) -> None: ...

    def close_older(self, table: TableDef) -> None: ...

    def close_slots(self, slots: Collection[Slot], detail: str) -> None: ...

    def close_all(self, reason: str) -> None: ...


class NobodyWaits:
    """The sequencer of a follower."""

    def claim(self, payload: bytes) -> None:
        return None

    def applied(self, payload: bytes) -> None: ...

    def void(self, payload: bytes) -> None: ...


def fatal(error: KalamError) -> NoReturn:
    raise error


def ignore(records: Sequence[Effect]) -> None: ...


def entry(index: int, prev_seq: Seq, seq_last: Seq, effects: Sequence[Effect]) -> LogEntry:
    command = codec.encode_command(Command(tuple(effects)))
    return LogEntry(index, 1, codec.encode_entry(1, prev_seq, seq_last, 0, [command]))


def test_changes_keep_their_images_when_a_trim_follows_in_the_batch() -> None:
    row = keys.row(TABLE, ALICE, PK)
    history = keys.history(TABLE, ALICE, PK, FIRST)
    first_change = keys.change(0, TABLE, ALICE, FIRST)
    second_change = keys.change(0, TABLE, ALICE, SECOND)
    old, new = codec.encode_row(FIRST, {1: 1, 2: "a"}), codec.encode_row(SECOND, {1: 1, 2: "b"})
    insert = [
        (row, old),
        (first_change, codec.encode_change(Op.INSERT, Seq(0), Seq(0), True, PK)),
    ]
    update = [
        (history, codec.encode_history(SECOND, old)),
        (row, new),
        (second_change, codec.encode_change(Op.UPDATE, FIRST, FIRST, True, PK)),
    ]
    trim = [(first_change, None), (second_change, None), (history, None)]
    sink = Watching()
    store = MemoryStore(GROUP)
    machine = Machine(store, sink, NobodyWaits(), fatal=fatal, on_records=ignore)
    machine.apply(
        [
            entry(2, Seq(0), FIRST, insert),
            entry(3, FIRST, SECOND, update),
            entry(4, SECOND, SECOND, trim),
        ]
    )
    assert [(change.before, change.after) for change in sink.changes] == [
        (None, {1: 1, 2: "a"}),
        ({1: 1, 2: "a"}, {1: 1, 2: "b"}),
    ]
    assert store.get(history) is None
    assert store.get(second_change) is None
