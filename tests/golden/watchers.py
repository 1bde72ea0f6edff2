"""Live queries in golden scripts: what each subscription is sent, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from kalamdb.edge import faults
from kalamdb.errors import KalamError, UnknownTable
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import Push, StreamEnd
from kalamdb.feed.loading import Newest, Whole
from kalamdb.feed.subscription import (
    Accepted,
    Events,
    FeedLimits,
    Output,
    Position,
    Resume,
    Rows,
    Start,
    Subscription,
)
from kalamdb.model.ids import Seq
from kalamdb.model.principal import Principal, Role
from kalamdb.session.permissions import check, check_read
from kalamdb.sql.bound import Env, ReevaluatedPlan
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select
from tests.golden.effects import Names
from tests.small_node import SmallNode

BATCH_ROWS = 1000


class Watcher:
    """One subscription and the frames it was sent since they were last shown."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames: list[dict[str, Any]] = []
        self.cursor = Seq(0)
        self.subscription: Subscription | None = None

    # kalamdb.feed.subscription.Outlet

    @property
    def push(self) -> Push:
        return self._event

    def behind(self, subscription: Subscription) -> None:
        raise AssertionError("a watcher takes everything")

    def ended(self, subscription: Subscription, end: StreamEnd) -> None:
        self.frames.append({"type": "error", "code": end.reason.value})
        self.subscription = None

    def _event(self, prefix: bytes, event: FeedEvent, /) -> bool:
        self.frames.append(orjson.loads(prefix + event.tail))
        self.cursor = event.seq
        return True

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Accepted():
                    pass
                case Rows(rows, page):
                    self.frames += [{"type": "row", "row": orjson.loads(row)} for row in rows]
                    assert not isinstance(page.seq, str)
                    self.cursor = page.seq or self.cursor
                case Events(events):
                    for event in events:
                        self._event(b'{"type":"change",', event)
                case Position(seq):
                    assert not isinstance(seq, str)
                    self.cursor = seq


def watch(
    node: SmallNode, watcher: Watcher, user: str, sql: str, *, asked: dict[str, str]
) -> str | None:
    """Subscribe; what was refused, else None. `asked` may have `last` and `from`.

    Of a query that is evaluated anew only how it was bound is told.
    """
    principal = Principal.of(user, Role.USER)
    try:
        (select,) = parse(sql)
        assert isinstance(select, Select)
        env = Env(principal, node.clock.wall_ms(), node.ids, ())
        plan = bind_live(select, node.groups.catalog, "default", env)
        if isinstance(plan, ReevaluatedPlan):
            check(principal, select, plan.tables)
            key = "every column" if plan.key is None else ", ".join(map(str, plan.key)) or "itself"
            return f"evaluated anew, {'in order' if plan.ordered else 'unordered'}, by {key}"
        check_read(principal, plan.table)
    except (KalamError, UnknownTable) as error:
        fault = faults.fault_of(error)
        return f"refused {fault.code}: {error}"
    partition = plan.table.partition_for(principal.partition)
    replica = node.groups.of(partition)
    subscription = Subscription(
        watcher.name,
        plan,
        partition,
        _start(asked, watcher),
        snapshot=replica.snapshot,
        hub=node.hubs[replica.group],
        outlet=watcher,
        limits=FeedLimits(),
    )
    watcher.subscription = subscription
    try:
        while subscription.wants_step:
            watcher.take(subscription.step(node.clock.monotonic_s()))
    except KalamError as error:
        subscription.close()
        return f"refused {faults.fault_of(error).code}: {error}"
    return None


def _start(asked: dict[str, str], watcher: Watcher) -> Start:
    if "last" in asked:
        return Newest(int(asked["last"]))
    if "resume" in asked:
        return Resume(watcher.cursor, BATCH_ROWS, snapshot_if_expired=False)
    if "from" in asked:
        return Resume(Seq(int(asked["from"])), BATCH_ROWS, snapshot_if_expired=False)
    return Whole(BATCH_ROWS)


def shown(watcher: Watcher, names: Names) -> Iterator[str]:
    """The frames since last time, a line each."""
    frames, watcher.frames = watcher.frames, []
    for frame in frames:
        match frame["type"]:
            case "row":
                yield f"{watcher.name} row {_object(frame['row'], names)}"
            case "error":
                yield f"{watcher.name} ended {frame['code']}"
            case _:
                yield f"{watcher.name} {_change(frame, names)}"


def _change(frame: dict[str, Any], names: Names) -> str:
    parts = [frame["change_type"]]
    for key in ("rows", "old_values"):
        for row in frame.get(key, ()):
            parts.append(("" if key == "rows" else "old ") + _object(row, names))
    parts.append(f"prev={names.seq(int(frame['prev_seq']))}")
    if frame.get("expired"):
        parts.append("expired")
    if not frame["commit"]:
        parts.append("more")
    return " ".join(parts)


def _object(row: dict[str, Any], names: Names) -> str:
    row = dict(row)
    if "_seq" in row:
        row["_seq"] = names.seq(int(row["_seq"]))
    return orjson.dumps(row).decode()
