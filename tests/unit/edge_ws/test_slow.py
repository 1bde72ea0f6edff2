"""Who reads slowly loses nothing; who stops reading is closed with its cursors, memory bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp

from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.outbox import Outbox
from tests.unit.edge_ws.house import ALL, IN_R, Client, House, opened
from tests.unit.feed.group import Write, note
from tests.waiting import wait_until

BODY = "x" * 400
LIMIT_BYTES = 32 << 10
# A round of the change log, and what a frame may be beyond the limit.
SLACK_BYTES = 80 << 10
LIMITS = replace(
    WsLimits(), buffer_max_bytes=LIMIT_BYTES, slow_consumer_timeout_s=0.2, client_timeout_s=60
)
# For clients that read: a busy machine must not make them look stuck.
PATIENT = replace(LIMITS, slow_consumer_timeout_s=10)


def write(house: House, first: int, count: int) -> None:
    """`count` transactions of one row, in one batch."""
    house.group.write(
        *([Write(number, note(number, "r", BODY))] for number in range(first, first + count))
    )


def outboxes(house: House) -> list[Outbox]:
    connections = house.edge._connections  # pyright: ignore[reportPrivateUsage]
    return [connection._outbox for connection in connections]  # pyright: ignore[reportPrivateUsage]


async def numbers(client: Client, count: int) -> list[int]:
    return [int((await client.frame())["rows"][0]["id"]) for _ in range(count)]


async def test_a_burst_beyond_the_buffer_reaches_who_reads() -> None:
    async with opened(PATIENT, small_buffers=True) as house, await house.alice() as client:
        await client.live("s", ALL)
        write(house, 0, 2000)  # 20 times the buffer, in one tick
        (outbox,) = outboxes(house)
        assert outbox.waiting_bytes <= LIMIT_BYTES
        assert house.group.hub.statistics().fallen == 1
        assert await numbers(client, 1000) == list(range(1000))
        write(house, 2000, 10)
        assert await numbers(client, 1010) == list(range(1000, 2010))
        write(house, 2010, 1)
        assert await numbers(client, 1) == [2010]
        assert house.edge.statistics().slow_closed == 0
        assert house.group.hub.statistics().fallen == 1


async def test_a_transaction_larger_than_the_buffer_arrives_whole() -> None:
    async with opened(PATIENT, small_buffers=True) as house, await house.alice() as client:
        await client.live("s", ALL)
        house.group.write([Write(number, note(number, "r", BODY)) for number in range(3000)])
        frames = await client.frames(3000)
        assert [frame["commit"] for frame in frames] == [False] * 2999 + [True]
        assert [int(frame["rows"][0]["id"]) for frame in frames] == list(range(3000))


async def stop_reading(house: House, client: Client) -> None:
    """Write until the socket is stuck and its client is given up."""
    await client.live("s", ALL)
    await client.live("r", IN_R)
    (outbox,) = outboxes(house)
    written = 0

    def given_up() -> bool:
        nonlocal written
        write(house, written, 20)
        written += 20
        assert outbox.waiting_bytes <= LIMIT_BYTES + SLACK_BYTES
        return house.edge.statistics().slow_closed == 1

    await wait_until(given_up, what="the slow consumer is given up")


async def test_who_reads_again_in_time_finds_the_cursors() -> None:
    async with opened(LIMITS, small_buffers=True) as house, await house.alice() as client:
        await stop_reading(house, client)
        seen: dict[str, list[str]] = {"s": [], "r": []}
        last: dict[str, Any] = {}
        while (frame := await client.frame())["type"] == "change":
            seen[frame["subscription_id"]].append(frame["rows"][0]["id"])
            last[frame["subscription_id"]] = frame["seq"]
        assert (frame["type"], frame["code"]) == ("error", "SLOW_CONSUMER")
        cursors = frame["cursors"]
        assert cursors == {**cursors, **last}
        assert (await client.frame())["code"] == 1013
        # From there on nothing is missing and nothing comes twice.
        async with await house.alice() as again:
            await again.subscribe("s", ALL, from_=cursors["s"])
            await again.frames(2)
            total = len(house.group.rows())
            rest = await numbers(again, total - len(seen["s"]))
            assert [*map(int, seen["s"]), *rest] == list(range(total))


async def test_who_never_reads_is_cut_off() -> None:
    limits = replace(LIMITS, close_timeout_s=0.1)
    async with opened(limits, small_buffers=True) as house, await house.alice() as client:
        await stop_reading(house, client)
        statistics = house.edge.statistics
        assert statistics().subscriptions == 0 or statistics().connections == 1
        await wait_until(lambda: statistics().connections == 0, what="the socket is cut off")
        assert statistics().subscriptions == 0
        while (message := await client.socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.type is not aiohttp.WSMsgType.TEXT


async def test_who_asks_much_and_reads_nothing_is_not_read_from() -> None:
    async with opened(LIMITS, small_buffers=True) as house, await house.alice() as client:
        write(house, 0, 200)
        (outbox,) = outboxes(house)

        for _ in range(100):
            await client.subscribe("s", ALL, batch_size=200)
        await wait_until(lambda: house.edge.statistics().slow_closed == 1, what="it is given up")
        assert outbox.waiting_bytes <= LIMIT_BYTES + 2 * (200 * (len(BODY) + 100))


async def test_a_client_that_vanishes_leaves_nothing() -> None:
    async with opened(LIMITS) as house:
        client = await house.alice()
        await client.live("s", ALL)
        transport = client.socket._response.connection.transport  # type: ignore[union-attr]
        transport.abort()  # pyright: ignore[reportOptionalMemberAccess]
        await wait_until(lambda: house.edge.statistics().connections == 0, what="it is gone")
        assert house.group.hub.statistics().subscriptions == 0
        await client.socket.close()


async def test_who_does_not_read_is_slow_and_not_silent() -> None:
    """A shorter patience with silence than with slowness changes nothing about which one it is."""
    limits = replace(
        LIMITS, slow_consumer_timeout_s=1.0, client_timeout_s=0.3, heartbeat_interval_s=0.05
    )
    async with opened(limits, small_buffers=True) as house, await house.alice() as client:
        await stop_reading(house, client)
        while (frame := await client.frame())["type"] == "change":
            pass
        assert (frame["type"], frame["code"]) == ("error", "SLOW_CONSUMER")
        assert (await client.frame())["code"] == 1013
