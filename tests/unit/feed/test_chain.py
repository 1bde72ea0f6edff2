"""Feeds found by value get exactly what feeds that are asked every time get."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.feed.subscription import FeedLimits, FromNow, Subscription
from kalamdb.model.keys import key_encoder
from kalamdb.sql.bound import LivePlan
from tests.unit.feed.client import Client
from tests.unit.feed.group import ALICE, NOTES, MemoryGroup, Write, in_room, note, plan

ROOM = NOTES.by_name["room"]
ROOMS = ("a", "b", "c", None)


def in_one(room: str, *, found: bool) -> LivePlan:
    made = plan(where=in_room(room), shape=f"{room} {found}")
    return replace(made, equality=(ROOM.id, key_encoder(ROOM.type)(room))) if found else made


def follow(group: MemoryGroup, client: Client, live: LivePlan) -> Subscription:
    subscription = Subscription(
        "s",
        live,
        ALICE,
        FromNow(),
        snapshot=group.snapshot,
        hub=group.hub,
        outlet=client,
        limits=FeedLimits(),
    )
    while subscription.wants_step:
        client.take(subscription, subscription.step(0))
    return subscription


WRITES = st.tuples(st.integers(0, 5), st.sampled_from(ROOMS), st.booleans())


@given(script=st.lists(st.lists(WRITES, min_size=1, max_size=4), max_size=20))
def test_the_same_events_and_cursors(script: list[list[tuple[int, str | None, bool]]]) -> None:
    group = MemoryGroup()
    clients = {(room, found): Client() for room in "abc" for found in (True, False)}
    everything = Client()
    follow(group, everything, plan())
    streams = {
        key: follow(group, client, in_one(key[0], found=key[1])) for key, client in clients.items()
    }
    for transaction in script:
        group.write(
            [
                Write(number, None if gone else note(number, room))
                for number, room, gone in transaction
            ]
        )
    for room in "abc":
        assert clients[room, True].seen == clients[room, False].seen
        assert clients[room, True].commits == clients[room, False].commits
        assert streams[room, True].cursor == streams[room, False].cursor
    for subscription in streams.values():
        subscription.close()
    assert group.hub.statistics().feeds == 1


@pytest.mark.parametrize("found", [True, False])
def test_a_stream_that_begins_later_stands_where_its_chain_does(*, found: bool) -> None:
    group = MemoryGroup()
    first = follow(group, Client(), in_one("a", found=found))
    group.write([Write(1, note(1, "b"))], [Write(2, note(2, "c"))])
    later = follow(group, Client(), in_one("b", found=found))
    assert first.cursor == later.cursor == group.seq_last
    group.write([Write(1, note(1, "c"))])
    assert first.cursor == later.cursor == group.seq_last
