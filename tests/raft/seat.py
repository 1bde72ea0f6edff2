"""One member of a group whose peers are played by the test, message by message."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any
from uuid import UUID

from cluster.raft.core import RAW
from cluster.raft.hub import Hub
from cluster.raft.journal import NO_OP
from cluster.raft.wal import Wal
from cluster.raft.wire import (
    Append,
    AskVote,
    GrantVote,
    Message,
    RequestVote,
    WouldVote,
    decode_frame,
    decode_message,
    encode_frame,
    encode_message,
)
from kalamdb.ports import AppliedMark, LogEntry
from tests.raft.world import ModelDisk


class ListMachine:
    def __init__(self) -> None:
        self.mark = AppliedMark(0, 0)
        self.entries: list[LogEntry] = []
        self.batches: list[int] = []
        self.queue: list[bytes] = []
        self.told: list[object] = []
        self.raising: Exception | None = None
        self.image_mark: AppliedMark | None = None

    def applied(self) -> AppliedMark:
        return self.mark

    def lead(self, term: int) -> None:
        self.told.append(term)

    def resign(self, reason: str) -> None:
        self.told.append(reason)

    def take(self, term: int, size_max: int) -> bytes | None:
        assert self.told
        assert self.told[-1] == term
        return self.queue.pop(0) if self.queue else None

    def apply(self, entries: Sequence[LogEntry]) -> None:
        self.entries += entries
        self.batches.append(len(entries))
        if self.raising is not None:
            raise self.raising
        self.mark = AppliedMark(entries[-1].index, entries[-1].term)

    async def image(self, source: int) -> AppliedMark:
        assert self.image_mark is not None
        self.mark = self.image_mark
        return self.mark

    @property
    def payloads(self) -> list[bytes]:
        return [entry.payload for entry in self.entries if entry.payload]


class Seat:
    """Node 1; also its link, drive, clock and dice. Background work waits for `work()`."""

    def __init__(self, size: int = 3, *, joining: bool = False, **wal: Any) -> None:
        self.joining = joining
        self.now_s = 100.0
        self.disk = ModelDisk()
        self.machine = ListMachine()
        self.voters = tuple(range(1, size + 1))
        self.spawned: list[Coroutine[Any, Any, None]] = []
        self.wal_settings = wal
        self.start()

    def start(self) -> None:
        self.sent: list[tuple[int, Message]] = []
        self.hub = Hub(
            1,
            Wal(self.disk, bytes(16), **self.wal_settings),
            self,
            clock=self,
            ids=self,
            drive=self,
        )
        self.group = self.hub.open(0, self.voters, self.machine, joining=self.joining)
        for peer in self.voters[1:]:
            self.hub.connected(peer)
        self.cycle()

    # Link, Drive, Clock, Ids.

    def send(self, node: int, frame: bytes) -> bool:
        for _, data in decode_frame(frame) or []:
            message = decode_message(data)
            assert message is not None
            self.sent.append((node, message))
        return True

    def wake(self) -> None:
        pass

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.spawned.append(work)

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def token(self, size_bytes: int) -> bytes:
        return b"\xff" * size_bytes

    def uuid4(self) -> UUID:
        return UUID(int=0)

    # The test's hands.

    def hear(self, peer: int, *messages: Message) -> None:
        for message in messages:
            assert self.hub.receive(peer, encode_frame([(0, encode_message(message))]))

    def cycle(self, advance_s: float = 0.0) -> None:
        """Let time pass, then cycle until nothing is left to do."""
        self.now_s += advance_s
        self.hub.mark_due()
        again = True
        while again:
            batch = self.hub.cycle_begin()
            if batch is not None:
                self.hub.write(batch)
            again = self.hub.cycle_end()

    def say(self, peer: int, *messages: Message) -> list[Message]:
        """Hear and cycle; what was said to `peer` by then."""
        self.sent.clear()
        self.hear(peer, *messages)
        self.cycle()
        return [message for node, message in self.sent if node == peer]

    def work(self) -> None:
        while self.spawned:
            try:
                self.spawned.pop().send(None)
            except StopIteration:
                continue
            raise AssertionError("work of a seat does not wait")

    def lead(self) -> int:
        """Win an election with the votes of nodes 2 and up; the term."""
        self.cycle(1.5)
        ask = next(m for _, m in self.sent if isinstance(m, AskVote))
        peers = self.voters[1:]
        for peer in peers:
            self.hear(peer, WouldVote(ask.ask))
        self.cycle()
        request = next(m for _, m in self.sent if isinstance(m, RequestVote))
        for peer in peers:
            self.hear(peer, GrantVote(request.term))
        self.cycle()
        return request.term

    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.group.journal[:]]


def rows(term: int, count: int, size_bytes: int = 4) -> list[tuple[int, bytes]]:
    return [(term, RAW + bytes(size_bytes)) for _ in range(count)]


WireRows = list[tuple[int, bytes]]


def append(term: int, prev: tuple[int, int], entries: WireRows, commit: int = 1) -> Append:
    return Append(term, 0, *prev, commit, entries)


def no_op(term: int) -> tuple[int, bytes]:
    return (term, NO_OP)
