"""Live connections over real sockets: signing in, subscribing, paging, errors, ends."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from kalamdb.edge.ws.limits import WsLimits
from kalamdb.errors import SigningKeyPending
from kalamdb.feed.subscription import FeedLimits
from kalamdb.model.ids import TableId, TenantId, tenant_partition
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from tests.unit.edge_ws.house import (
    ALL,
    ELSEWHERE,
    IN_R,
    NOTES_ID,
    QUICK,
    House,
    opened,
)
from tests.unit.feed.group import NOTES, OTHERS, Write, note
from tests.waiting import wait_until

PONG = {"type": "pong"}
JSON_GZIP = {"serialization": "json", "compression": "gzip"}


def error(frame: dict[str, Any]) -> tuple[str, str]:
    assert frame["type"] == "error", frame
    assert frame["message"]
    return frame["subscription_id"], frame["code"]


# ---- signing in ---------------------------------------------------------------------------------


async def test_sign_in_by_message_and_again() -> None:
    async with opened() as house, await house.connect() as client:
        house.tokens["fresh"] = house.tokens["alice"]
        await client.send(type="authenticate", token="alice")
        expected = {
            "type": "auth_success",
            "user": "alice",
            "user_id": "alice",
            "role": "user",
            "protocol": JSON_GZIP,
        }
        assert await client.frame() == expected
        await client.send(type="authenticate", token="fresh")
        assert await client.frame() == expected


async def test_sign_in_by_header() -> None:
    async with opened() as house:
        headers = {"Authorization": "Bearer root"}
        async with await house.connect("?compression=none", headers=headers) as client:
            frame = await client.frame()
            assert (frame["user"], frame["role"]) == ("root", "system")
            assert frame["protocol"] == {"serialization": "json", "compression": "none"}


async def test_a_serialization_nobody_knows_is_answered_with_json() -> None:
    async with opened() as house, await house.connect("?compress=false") as client:
        wished = {"serialization": "cbor", "compression": "gzip"}
        await client.send(type="authenticate", method="jwt", token="alice", protocol=wished)
        frame = await client.frame()
        assert frame["protocol"] == {"serialization": "json", "compression": "none"}


@pytest.mark.parametrize("header", ["Bearer nobody", "Basic YTpi", "Bearer"])
async def test_a_bad_header_is_an_auth_error_and_the_end(header: str) -> None:
    async with (
        opened() as house,
        await house.connect(headers={"Authorization": header}) as client,
    ):
        assert (await client.frame())["type"] == "auth_error"
        assert (await client.frame())["code"] == 1008


@pytest.mark.parametrize("sent", [{"token": "nobody"}, {"token": "alice", "method": "basic"}])
async def test_a_bad_token_is_an_auth_error_and_the_end(sent: dict[str, str]) -> None:
    async with opened() as house, await house.connect() as client:
        await client.send(type="authenticate", **sent)
        assert (await client.frame())["type"] == "auth_error"
        assert (await client.frame())["code"] == 1008


async def test_who_does_not_sign_in_is_turned_away() -> None:
    async with opened(QUICK) as house, await house.connect() as client:
        assert (await client.frame())["type"] == "auth_error"
        assert (await client.frame())["code"] == 1008


async def test_nothing_is_told_before_sign_in() -> None:
    async with opened() as house, await house.connect() as client:
        await client.send(type="next_batch", subscription_id="s")
        await client.send(type="unsubscribe", subscription_id="s")
        await client.subscribe("s", ALL)
        assert error(await client.frame()) == ("subscribe", "AUTH_REQUIRED")


async def test_a_token_that_no_longer_stands_ends_the_socket() -> None:
    async with opened(replace(QUICK, auth_timeout_s=3)) as house, await house.alice() as client:
        await client.live("s", ALL)
        del house.tokens["alice"]
        assert (await client.frame())["type"] == "auth_error"
        assert (await client.frame())["code"] == 1008
        await wait_until(lambda: house.edge.statistics().connections == 0, what="the end")
        assert house.edge.statistics().subscriptions == 0


@pytest.mark.parametrize("known", ["after the fetch", "never"])
async def test_a_key_that_has_to_be_fetched_is_waited_for(known: str) -> None:
    """Whatever the client says meanwhile is read when it is known who says it."""
    async with opened(replace(QUICK, auth_timeout_s=3)) as house, await house.connect() as client:
        fetched = asyncio.Event()
        inner = house.edge.authenticate

        def authenticate(token: str) -> Principal:
            if known == "never" or not fetched.is_set():
                raise SigningKeyPending("https://issuer", fetched.wait)
            return inner(token)

        house.edge.authenticate = authenticate
        await client.send(type="authenticate", token="alice")
        await client.subscribe("s", ALL)
        fetched.set()
        if known == "never":
            assert (await client.frame())["type"] == "auth_error"
            assert (await client.frame())["code"] == 1008
            return
        assert (await client.frame())["type"] == "auth_success"
        assert (await client.frame())["type"] == "subscription_ack"


async def test_a_fresh_token_keeps_the_socket() -> None:
    async with opened(replace(QUICK, auth_timeout_s=3)) as house, await house.alice() as client:
        house.tokens["fresh"] = house.tokens["alice"]
        await client.send(type="authenticate", token="fresh")
        await client.frame()
        del house.tokens["alice"]
        await client.live("s", ALL)
        await house_ticks(house)
        house.group.write([Write(1, note(1))])
        assert (await client.frame())["type"] == "change"


@pytest.mark.parametrize(
    "sent", [{"token": "nobody"}, {}, {"token": "bob"}, {"token": "fresh", "method": "basic"}]
)
async def test_a_token_that_is_no_renewal_is_told_and_the_old_one_stands(
    sent: dict[str, str],
) -> None:
    async with opened(replace(QUICK, auth_timeout_s=3)) as house, await house.alice() as client:
        house.tokens["fresh"] = house.tokens["alice"]
        await client.live("s", ALL)
        await client.send(type="authenticate", **sent)
        assert error(await client.frame()) == ("protocol", "AUTH_REQUIRED")
        await house_ticks(house)
        house.group.write([Write(1, note(1))])
        assert (await client.frame())["rows"][0]["id"] == "1"
        del house.tokens["alice"]
        assert (await client.frame())["type"] == "auth_error"


async def house_ticks(house: House) -> None:
    """Let several ticks of the edge pass."""
    clock = house.clock
    began = clock.monotonic_s()
    await wait_until(
        lambda: clock.monotonic_s() - began > 4 * QUICK.heartbeat_interval_s, what="ticks"
    )


async def test_origin_is_checked() -> None:
    async with opened(origins=["https://a.example"]) as house:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await house.connect(headers={"Origin": "https://b.example"})
        assert refused.value.status == 403
        async with await house.connect(headers={"Origin": "https://a.example"}):
            pass


async def test_the_number_of_sockets_is_limited() -> None:
    async with opened(WsLimits(connections=1)) as house, await house.connect():
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await house.connect()
        assert refused.value.status == 503


# ---- live queries -------------------------------------------------------------------------------


async def test_the_worked_session() -> None:
    async with opened() as house, await house.alice() as client:
        group = house.group
        for number, body in enumerate("abc", start=1):
            group.write([Write(number, note(number, "r", body))])
        seqs = [str(change.seq) for change in group.log()]
        await client.subscribe("m", IN_R, batch_size=2)
        ack, batch = await client.frames(2)
        control = {"batch_num": 0, "has_more": True, "status": "loading", "last_seq_id": seqs[1]}
        assert ack == {
            "type": "subscription_ack",
            "subscription_id": "m",
            "total_rows": 0,
            "batch_control": control,
            "schema": [
                {"name": "id", "data_type": "BigInt", "index": 0, "flags": ["pk", "nn", "uq"]},
                {"name": "body", "data_type": "Text", "index": 1},
            ],
        }
        assert batch["batch_control"] == control
        assert batch["rows"] == [
            {"id": "1", "body": "a", "_seq": seqs[0]},
            {"id": "2", "body": "b", "_seq": seqs[1]},
        ]
        await client.send(type="next_batch", subscription_id="m", last_seq_id=int(seqs[1]))
        batch = await client.frame()
        assert batch["rows"] == [{"id": "3", "body": "c", "_seq": seqs[2]}]
        assert batch["batch_control"] == {
            "batch_num": 1,
            "has_more": False,
            "status": "ready",
            "last_seq_id": seqs[2],
        }
        assert batch["seq"] == seqs[2]
        group.write([Write(2, note(2, "r", "B"))], [Write(3, None)])
        update, delete = await client.frames(2)
        later = [str(change.seq) for change in group.log()][3:]
        assert update == {
            "type": "change",
            "subscription_id": "m",
            "change_type": "update",
            "rows": [{"id": "2", "body": "B", "_seq": later[0]}],
            "old_values": [{"id": "2", "body": "b", "_seq": seqs[1]}],
            "seq": later[0],
            "prev_seq": seqs[2],
            "commit": True,
        }
        assert delete["old_values"] == [{"id": "3", "body": "c", "_seq": later[1]}]


async def test_resume_by_number_or_string() -> None:
    async with opened() as house, await house.alice() as client:
        house.group.write([Write(1, note(1))], [Write(2, note(2))])
        cursor = house.group.seq_last
        house.group.write([Write(1, None)])
        for name, options in (("a", {"from_": int(cursor)}), ("b", {"from_seq_id": str(cursor)})):
            await client.subscribe(name, ALL, **options)
            ack, batch, change = await client.frames(3)
            assert ack["batch_control"]["status"] == "ready"
            assert ack["seq"] == str(cursor)
            assert batch["rows"] == []
            assert change["change_type"] == "delete"
            assert change["subscription_id"] == name
            assert change["prev_seq"] == str(cursor)


async def test_an_expired_cursor() -> None:
    async with opened() as house, await house.alice() as client:
        house.group.write([Write(1, note(1))])
        await client.subscribe("s", ALL, from_=str(house.group.seq_last + 1024))
        frame = await client.frame()
        assert error(frame) == ("s", "CURSOR_EXPIRED")
        assert frame["reason"] == "ahead"
        house.group.floor = house.group.seq_last
        await client.subscribe("s", ALL, from_="1", on_expired="snapshot")
        ack, batch = await client.frames(2)
        assert ack["reset"] is True
        assert len(batch["rows"]) == 1


async def test_a_held_snapshot_expires() -> None:
    limits = replace(QUICK, auth_timeout_s=3, feed=FeedLimits(snapshot_hold_s=60))
    async with opened(limits) as house, await house.alice() as client:
        house.group.write([Write(1, note(1)), Write(2, note(2))])
        await client.subscribe("s", ALL, batch_size=1)
        await client.frames(2)
        await client.send(type="ping")
        assert await client.frame() == PONG
        house.clock.ahead_s = 61
        await client.send(type="ping")
        frame = await client.frame()
        if frame == PONG:
            frame = await client.frame()
        if frame["type"] == "closed":
            pytest.fail("the heartbeat came first")
        assert error(frame) == ("s", "CURSOR_EXPIRED")
        assert frame["reason"] == "snapshot"
        assert house.group.snapshots_open == 0


async def test_two_streams_of_one_socket_leave_in_order() -> None:
    async with opened() as house, await house.alice() as client:
        await client.live("all", ALL)
        await client.live("r", IN_R)
        for number in range(50):
            house.group.write([Write(number, note(number, "r" if number % 2 else "s"))])
        seen: dict[str, list[int]] = {"all": [], "r": []}
        for _ in range(75):
            frame = await client.frame()
            seen[frame["subscription_id"]].append(int(frame["rows"][0]["id"]))
        assert seen == {"all": list(range(50)), "r": list(range(1, 50, 2))}


async def test_an_id_used_again_replaces_the_older() -> None:
    limits = WsLimits(subscriptions_per_connection=1, subscriptions_per_user=1)
    async with opened(limits) as house, await house.alice() as client:
        await client.live("s", ALL)
        await client.live("s", IN_R)
        assert house.edge.statistics().subscriptions == 1
        house.group.write([Write(1, note(1, "x"))], [Write(2, note(2, "r"))])
        assert (await client.frame())["rows"][0]["id"] == "2"


async def test_unsubscribe_is_silent_and_ends_it() -> None:
    async with opened() as house, await house.alice() as client:
        await client.live("a", ALL)
        await client.live("b", ALL)
        await client.send(type="unsubscribe", subscription_id="a")
        await client.send(type="unsubscribe", subscription_id="never was")
        await wait_until(lambda: house.edge.statistics().subscriptions == 1, what="the end of a")
        house.group.write([Write(1, note(1))])
        assert (await client.frame())["subscription_id"] == "b"


async def test_other_tenants_see_nothing() -> None:
    async with opened() as house, await house.alice() as client:
        await client.live("s", ALL)
        house.group.write([Write(1, note(1))], partition=tenant_partition(TenantId("bob")))
        house.group.write([Write(2, note(2))])
        assert (await client.frame())["rows"][0]["id"] == "2"


async def test_large_events_and_batches_are_packed() -> None:
    async with opened() as house, await house.alice(packed=True) as client:
        await client.live("s", ALL)
        body = "lorem ipsum " * 60
        house.group.write([Write(1, note(1, body=body))], [Write(2, note(2, body="small"))])
        large, small = await client.frames(2)
        assert large["rows"][0]["body"] == body
        assert small["rows"][0]["body"] == "small"
        assert [kind.name for kind in client.kinds[-2:]] == ["BINARY", "TEXT"]
        for number in range(100):
            house.group.write([Write(number, note(number, body=body))])
        for _ in range(100):
            await client.frame()
        await client.subscribe("t", ALL, batch_size=1000)
        _, batch = await client.frames(2)
        assert len(batch["rows"]) == 100
        assert client.kinds[-1].name == "BINARY"


async def test_the_cursor_of_a_page_that_is_being_packed_is_before_it() -> None:
    async with opened() as house, await house.alice(packed=True) as client:
        house.group.write([Write(number, note(number, body="x" * 1000)) for number in range(100)])
        held = threading.Event()
        house.edge.services.packer.submit(held.wait, 10)
        try:
            await client.subscribe("s", ALL, batch_size=1000)
            assert "seq" not in await client.frame()
            house.group.hub.close_all("node 2 leads")
            frame = await client.frame()
        finally:
            held.set()
        assert error(frame) == ("s", "LEADERSHIP_LOST")
        assert frame["seq"] == "0", "its rows were not sent"
        await client.subscribe("s", ALL, from_=frame["seq"])
        assert len((await client.frames(2))[1]["rows"]) == 100


async def test_a_row_written_while_the_barrier_waits_is_in_the_snapshot() -> None:
    async with opened() as house, await house.alice() as client:
        house.group.wait = asyncio.get_running_loop().create_future()
        await client.subscribe("s", ALL, batch_size=10)
        await wait_until(lambda: house.group.barriers == 1, what="the subscription waits")
        house.group.write([Write(1, note(1))])
        house.group.wait.set_result(None)
        _, batch = await client.frames(2)
        assert len(batch["rows"]) == 1


async def test_a_stream_is_told_how_far_it_got_past_changes_that_were_not_for_it() -> None:
    limits = replace(QUICK, auth_timeout_s=3, position_interval_s=0.0)
    async with opened(limits) as house, await house.alice() as client:
        await client.live("all", ALL)
        await client.live("s", IN_R)
        house.group.write([Write(1, note(1, "s"))])
        seq = str(house.group.seq_last)
        change, position = await client.frames(2)
        assert (change["subscription_id"], change["seq"]) == ("all", seq)
        assert position == {"type": "position", "subscription_id": "s", "seq": seq}
        # Neither of them is told that others of the group write, tick after tick.
        house.group.write([Write(1, note(1), OTHERS)])
        await house_ticks(house)
        await client.send(type="ping")
        assert await client.frame() == PONG


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sql", "options", "expected"),
    [
        (" ", ALL, {}, ("invalid_subscription", "INVALID_SUBSCRIPTION_ID")),
        ("x" * 300, ALL, {}, ("invalid_subscription", "INVALID_SUBSCRIPTION_ID")),
        ("s", "syntax", {}, ("s", "INVALID_SQL")),
        ("s", "two", {}, ("s", "INVALID_SQL")),
        ("s", "create", {}, ("s", "INVALID_SQL")),
        ("s", "join", {}, ("s", "UNSUPPORTED")),
        ("s", "missing", {}, ("s", "NOT_FOUND")),
        ("s", ELSEWHERE, {}, ("s", "UNAUTHORIZED")),
        ("s", ALL, {"batch_size": 5, "last_rows": 6}, ("s", "UNSUPPORTED")),
        ("s", ALL, {"batch_size": 10_001}, ("s", "UNSUPPORTED")),
        ("s", ALL, {"from_": "soon"}, ("s", "PROTOCOL")),
    ],
)
async def test_subscriptions_that_cannot_be(
    name: str, sql: str, options: dict[str, object], expected: tuple[str, str]
) -> None:
    async with opened() as house, await house.alice() as client:
        await client.subscribe(name, sql, **options)
        assert error(await client.frame()) == expected
        await client.live("good", ALL)
        assert house.edge.statistics().subscriptions == 1


async def test_subscriptions_are_limited_per_connection_and_user() -> None:
    limits = WsLimits(subscriptions_per_connection=2, subscriptions_per_user=3)
    async with opened(limits) as house, await house.alice() as first:
        await first.live("1", ALL)
        await first.live("2", ALL)
        await first.subscribe("3", ALL)
        refused = await first.frame()
        assert error(refused) == ("3", "SUBSCRIPTION_LIMIT_EXCEEDED")
        assert "a connection" in refused["message"]
        async with await house.alice() as second:
            await second.live("1", ALL)
            await second.subscribe("2", ALL)
            refused = await second.frame()
            assert error(refused) == ("2", "SUBSCRIPTION_LIMIT_EXCEEDED")
            assert "a user" in refused["message"]
        await wait_until(lambda: house.edge.statistics().subscriptions == 2, what="a socket's end")


async def test_messages_that_are_none() -> None:
    limits = WsLimits(message_max_bytes=1000)
    async with opened(limits) as house, await house.alice() as client:
        await client.send(type="shout")
        assert error(await client.frame()) == ("protocol", "PROTOCOL")
        await client.socket.send_bytes(b"\x1f\x8b")
        assert error(await client.frame()) == ("protocol", "UNSUPPORTED_DATA")
        await client.send(type="ping", pad="x" * 1000)
        assert error(await client.frame()) == ("protocol", "MESSAGE_TOO_LARGE")
        await client.send(type="next_batch", subscription_id="none")
        assert error(await client.frame()) == ("none", "BATCH_FETCH_FAILED")
        await client.socket.send_str("{")
        assert error(await client.frame()) == ("protocol", "PROTOCOL")
        assert (await client.frame())["code"] == 1011


async def test_a_flood_of_messages_is_not_read() -> None:
    limits = WsLimits(messages_per_s=0.001, messages_burst=2)
    async with opened(limits) as house, await house.alice() as client:
        await client.send(type="ping")
        await client.send(type="ping")
        assert await client.frame() == PONG
        assert error(await client.frame()) == ("rate_limit", "RATE_LIMIT_EXCEEDED")
        await client.subscribe("s", ALL)
        assert error(await client.frame()) == ("rate_limit", "RATE_LIMIT_EXCEEDED")


# ---- ends ---------------------------------------------------------------------------------------


async def test_a_dropped_table_and_a_lost_leader_end_streams_not_the_socket() -> None:
    async with opened() as house, await house.alice() as client:
        await client.live("s", ALL)
        house.group.write([Write(1, note(1))])
        await client.frame()
        house.group.hub.close_table(NOTES_ID)
        frame = await client.frame()
        assert error(frame) == ("s", "TABLE_DROPPED")
        await client.live("s", ALL)
        house.group.hub.close_all("node 2 leads")
        frame = await client.frame()
        assert error(frame) == ("s", "LEADERSHIP_LOST")
        assert frame["seq"] == str(house.group.seq_last)
        house.group.write([Write(2, note(2))])
        await client.subscribe("s", ALL, from_=frame["seq"])
        assert (await client.frames(3))[2]["rows"][0]["id"] == "2"


@pytest.mark.parametrize(
    ("tables", "code"),
    [
        ({}, "TABLE_DROPPED"),
        ({NOTES_ID: replace(NOTES, version=2, columns=NOTES.columns[:2])}, "SCHEMA_CHANGED"),
    ],
)
async def test_a_table_that_left_the_catalog_ends_its_streams(
    tables: dict[TableId, TableDef], code: str
) -> None:
    async with opened(replace(QUICK, auth_timeout_s=3)) as house, await house.alice() as client:
        await client.live("s", ALL)
        house.group.catalog = replace(house.group.catalog, version=1, tables_by_id=tables)
        assert error(await client.frame()) == ("s", code)
        assert house.edge.statistics().subscriptions == 0


async def test_silence_ends_the_socket() -> None:
    async with opened(replace(QUICK, auth_timeout_s=3)) as house, await house.alice() as client:
        house.clock.ahead_s = 11
        assert await client.frame() == {
            "type": "closed",
            "code": 1000,
            "reason": "Heartbeat timeout",
        }


async def test_a_goodbye_of_the_client_is_answered() -> None:
    async with opened() as house:
        client = await house.alice()
        await client.live("s", ALL)
        await client.socket.close(code=4001)
        assert client.socket.close_code == 4001
        await wait_until(lambda: house.edge.statistics().connections == 0, what="the end")


async def test_ping_frames_are_answered() -> None:
    async with opened() as house, await house.connect(autoping=False) as client:
        await client.socket.ping(b"are you there")
        message = await client.socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"are you there")


async def test_ping_messages_are_answered_in_order() -> None:
    async with opened() as house, await house.connect() as client:
        await client.send(type="ping")  # before signing in, too
        assert await client.frame() == PONG
        await client.send(type="authenticate", token="alice")
        await client.subscribe("s", ALL)
        await client.send(type="ping")
        kinds = [frame["type"] for frame in await client.frames(3)]
        assert kinds == ["auth_success", "subscription_ack", "pong"]


async def test_shutdown_says_goodbye_and_takes_nobody_in() -> None:
    async with opened() as house, await house.alice() as client:
        await client.live("s", ALL)
        closing = asyncio.ensure_future(house.edge.close())
        assert (await client.frame())["code"] == 1001
        await closing
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await house.connect()
        assert refused.value.status == 503
