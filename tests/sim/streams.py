"""Streams of changes from a member to its subscribers: a small hub of the simulator's own.

A stream is opened at a position, replays the change log up to it while what is published meanwhile
waits, then follows. Frames reach the subscriber in order; a stream ends once, with the process or
by the replica.

Keeps: a stream is handed each change above its position exactly as the replica published it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from kalamdb.model import keys
from kalamdb.model.change import Change, ChangeBatch
from kalamdb.model.ids import Partition, Seq, Slot
from kalamdb.model.table import TableDef
from kalamdb.store.slot_keys import slot_of_key
from tests.sim.schema import TABLE

Deliver = Callable[["Message"], None]
Message = Change | Seq | str
"""A change, a position all changes up to which were sent, or why the stream ended."""


class Stream:
    """One subscriber's stream. `deliver` is called in order and must not call back."""

    def __init__(self, position: Seq, deliver: Deliver) -> None:
        self._position = position
        self._deliver = deliver
        self._waiting: list[Change] | None = []
        self.ended = False

    def publish(self, change: Change) -> None:
        if self.ended:
            return
        assert change.seq > self._position, "published again"
        self._position = change.seq
        if self._waiting is None:
            self._deliver(change)
        else:
            self._waiting.append(change)

    def replay(self, change: Change) -> None:
        """A change from the log, before the stream follows."""
        if not self.ended:
            self._deliver(change)

    def follow(self) -> None:
        """The replay is done: what was published meanwhile, then live."""
        waiting, self._waiting = self._waiting or [], None
        for change in waiting:
            if not self.ended:
                self._deliver(change)

    def tell_position(self, seq: Seq) -> None:
        if not self.ended and self._waiting is None:
            self._deliver(seq)

    def end(self, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self._deliver(reason)


class StreamSink:
    """Implements `ports.ChangeSink`."""

    def __init__(self) -> None:
        self._streams: dict[bytes, list[Stream]] = {}

    def open(self, partition: Partition, stream: Stream) -> None:
        self._streams.setdefault(keys.chain(TABLE.id, partition), []).append(stream)

    def tell_positions(self, seq: Seq) -> None:
        for streams in self._streams.values():
            for stream in streams:
                stream.tell_position(seq)

    def watches(self, chain: bytes) -> bool:
        return chain in self._streams

    def publish(self, batch: ChangeBatch) -> None:
        for change in batch.changes:
            for stream in self._streams.get(keys.chain(change.table, change.partition), ()):
                stream.publish(change)

    def close_table(self, table: int) -> None:
        self.close_all(f"table {table} is gone")

    def close_older(self, table: TableDef) -> None: ...

    def close_slots(self, slots: Collection[Slot], detail: str) -> None:
        for chain in [chain for chain in self._streams if slot_of_key(chain, 4) in slots]:
            for stream in self._streams.pop(chain):
                stream.end(detail)

    def open_in(self, slot: Slot) -> bool:
        """Does a stream of a partition in this slot go on?"""
        return any(
            not stream.ended
            for chain, streams in self._streams.items()
            for stream in streams
            if slot_of_key(chain, 4) == slot
        )

    def close_all(self, reason: str) -> None:
        streams, self._streams = self._streams, {}
        for group in streams.values():
            for stream in group:
                stream.end(reason)

    def process_ended(self) -> None:
        self.close_all("the process ended")
