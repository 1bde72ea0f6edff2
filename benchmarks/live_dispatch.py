"""What does a change of a SHARED table cost when 10,000 live queries each ask for one thread of it?

In one process, without sockets: 10,000 subscriptions `WHERE thread_id = <own>`, then changes, each
for a thread drawn at random. Two hubs take turns: one finds feeds by the value of the column, the
other asks every feed. Both must hand the same events to the same subscriptions.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace

from benchmarks.report import Report
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import Hub, StreamEnd
from kalamdb.lib.clock import SystemIds
from kalamdb.model import keys
from kalamdb.model.catalog import EMPTY_CATALOG, Namespace
from kalamdb.model.change import Change, ChangeBatch, Op
from kalamdb.model.ids import GroupId, Seq, TableId, shared_partition
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import BIGINT, TEXT
from kalamdb.sql.bound import Env, LivePlan
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select

GROUP = GroupId(1)
TABLE = TableDef(
    TableId(1),
    "app",
    "messages",
    TableKind.SHARED,
    (
        Column(1, "id", BIGINT, nullable=False),
        Column(2, "thread_id", BIGINT),
        Column(3, "body", TEXT),
    ),
    (1,),
)
PARTITION = shared_partition(TABLE.id)
CHAIN = keys.chain(TABLE.id, PARTITION)
SQL = "SELECT id, body FROM app.messages WHERE thread_id = $1 AND body <> 'secret'"


class Member:
    """A subscription that counts what it is handed."""

    def __init__(self, plan: LivePlan, number: int) -> None:
        self.plan = plan
        self.chain = CHAIN
        self.prefix = b'"%d",' % number
        self.push = self._take
        self.position = Seq(0)
        self.seen: list[int] = []

    def _take(self, prefix: bytes, event: FeedEvent, /) -> bool:
        self.seen.append(event.seq)
        return True

    def fall_behind(self) -> None:
        raise AssertionError("a member takes everything")

    def end(self, end: StreamEnd) -> None:
        raise AssertionError(end)


def plan_of(thread: int) -> LivePlan:
    catalog = replace(
        EMPTY_CATALOG,
        namespaces={"app": Namespace("app", 0)},
        tables={("app", "messages"): TABLE},
        tables_by_id={TABLE.id: TABLE},
    )
    (select,) = parse(SQL)
    assert isinstance(select, Select)
    env = Env(Principal.of("alice", Role.SERVICE), 0, SystemIds(), [thread])
    plan = bind_live(select, catalog, "default", env)
    assert isinstance(plan, LivePlan)
    assert plan.equality is not None
    return plan


def filled(plans: list[LivePlan]) -> tuple[Hub, list[Member]]:
    hub = Hub()
    members = [Member(plan, number) for number, plan in enumerate(plans)]
    for member in members:
        hub.enter(member)
        hub.join(member, Seq(0), Seq(0))
    return hub, members


def changes(count: int, threads: int, dice: random.Random) -> list[ChangeBatch]:
    found: list[ChangeBatch] = []
    for number in range(1, count + 1):
        seq = Seq(number << 10 | GROUP)
        row = {1: number, 2: dice.randrange(threads), 3: "hello"}
        before = Seq(number - 1 << 10 | GROUP) if number > 1 else Seq(0)
        change = Change(
            GROUP, TABLE.id, PARTITION, seq, before, Op.INSERT, b"", None, Seq(0), row, True
        )
        found.append(ChangeBatch(GROUP, seq, (change,)))
    return found


def publish(hub: Hub, batches: list[ChangeBatch]) -> float:
    """Microseconds a change."""
    began_s = time.perf_counter()
    for batch in batches:
        hub.publish(batch)
    return (time.perf_counter() - began_s) / len(batches) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=300, help="for the hub that asks all feeds")
    options = parser.parse_args()
    plans = [plan_of(thread) for thread in range(options.subscriptions)]
    by_value, found = filled(plans)
    by_asking, asked = filled([replace(plan, equality=None) for plan in plans])
    dice = random.Random(7)
    first = changes(options.changes, options.subscriptions, dice)
    slow_us = publish(by_asking, first)
    fast_us = publish(by_value, first)
    if [one.seen for one in found] != [one.seen for one in asked]:
        raise SystemExit("FAILED: the two hubs handed out different events")
    report = Report()
    report.table(
        f"{options.subscriptions:,} subscriptions, each of its own thread",
        ("feeds are found", "µs a change", "changes per second"),
        (
            ("by asking all", f"{slow_us:,.1f}", f"{1e6 / slow_us:,.0f}"),
            ("by value", f"{fast_us:,.1f}", f"{1e6 / fast_us:,.0f}"),
            ("ratio", f"{slow_us / fast_us:,.0f}", ""),
        ),
    )


if __name__ == "__main__":
    main()
