"""A client of one live query: it keeps the rows it was told of and checks what may never happen."""

from __future__ import annotations

from typing import Any

import orjson

from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import StreamEnd
from kalamdb.feed.subscription import Accepted, Events, Output, Position, Rows, Subscription


class Client:
    """The `Outlet` of a subscription. With `room` 0 it takes no live event."""

    def __init__(self) -> None:
        self.room = 1_000_000
        self.rows: dict[str, dict[str, Any]] = {}
        self.cursor = 0
        self.last_row: int | None = None
        self.ready = False
        self.open_txn = False
        self.reset = False
        self.behind_of: list[Subscription] = []
        self.end: StreamEnd | None = None
        self.seen: list[tuple[str, int]] = []
        self.commits: list[tuple[int, bool]] = []
        self.chained = False

    def push(self, prefix: bytes, event: FeedEvent, /) -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.event(prefix, event)
        return True

    def behind(self, subscription: Subscription) -> None:
        self.behind_of.append(subscription)

    def ended(self, subscription: Subscription, end: StreamEnd) -> None:
        self.end = end

    def take(self, subscription: Subscription, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Accepted(page, reset):
                    self.reset = reset
                    if reset:
                        self.rows.clear()
                    if page.seq is not None:
                        self.cursor = max(self.cursor, int(page.seq))
                case Rows(rows, page):
                    self.take_page([orjson.loads(row) for row in rows])
                    self.ready = not page.has_more
                    self.last_row = page.last_row
                    if page.seq is not None:
                        self.cursor = max(self.cursor, int(page.seq))
                case Events(events):
                    for event in events:
                        self.event(subscription.prefix, event)
                case Position(seq):
                    assert not isinstance(seq, str)
                    assert seq >= self.cursor
                    self.cursor = seq
                    self.open_txn = False

    def take_page(self, rows: list[dict[str, Any]]) -> None:
        seqs = [int(row["_seq"]) for row in rows]
        assert seqs == sorted(seqs)
        for row in rows:
            self.rows[row["id"]] = row

    def event(self, prefix: bytes, event: FeedEvent) -> None:
        frame = orjson.loads(prefix + event.tail)
        seq = int(frame["seq"])
        assert seq > self.cursor, "a seq twice, or out of order"
        assert int(frame["prev_seq"]) < seq
        if self.chained:
            assert int(frame["prev_seq"]) <= self.cursor, "a gap in the chain"
        self.cursor = seq
        self.open_txn = not frame["commit"]
        self.seen.append((frame["change_type"], seq))
        self.commits.append((seq, frame["commit"]))
        match frame["change_type"]:
            case "insert":
                (row,) = frame["rows"]
                self.rows[row["id"]] = row
            case "update":
                (row,) = frame["rows"]
                self.rows[row["id"]] = self.rows.get(row["id"], {}) | row
            case _:
                (row,) = frame["old_values"]
                self.rows.pop(row["id"], None)
