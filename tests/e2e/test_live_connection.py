"""`GET /v1/ws` over the wire: signing in, refusals, frames, and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio

from tests.e2e.contract import Live, Node, ids, live, one_node
from tests.e2e.server import JWT_SECRET, Client
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTH_TIMEOUT_S = 0.5
CLIENT_TIMEOUT_S = 6.5  # above the 5 s after which a slow reader is closed
SUBSCRIPTIONS_PER_USER = 150
SUBSCRIPTIONS_PER_SOCKET = 100
PACKED_FROM_BYTES = 512
ENDED_WITHIN_S = 5.0
SLOW_READERS, SLOW_CHANGES, SLOW_BODY_BYTES = 8, 60, 200_000
MIB = 1 << 20
ROOM_A = "SELECT id, body FROM app.msgs WHERE room = 'a'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    env = {
        "KALAMDB_WEBSOCKET_AUTH_TIMEOUT_S": str(AUTH_TIMEOUT_S),
        "KALAMDB_WEBSOCKET_CLIENT_TIMEOUT_S": str(CLIENT_TIMEOUT_S),
        "KALAMDB_WEBSOCKET_HEARTBEAT_INTERVAL_S": "0.2",
        "KALAMDB_WEBSOCKET_MAX_SUBSCRIPTIONS_PER_USER": str(SUBSCRIPTIONS_PER_USER),
        "KALAMDB_WEBSOCKET_MAX_PENDING_BYTES": str(256 * 1024),
    }
    async with one_node(tmp_path_factory.mktemp("socket") / "data", env) as node:
        await node.root.ok(
            "CREATE USER TABLE app.msgs (id INT PRIMARY KEY, room TEXT, body TEXT, n BIGINT);"
            "CREATE SHARED TABLE app.news (id INT PRIMARY KEY, v TEXT)"
            " WITH (ACCESS_LEVEL = 'public')"
        )
        yield node


# ---- signing in ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def stranger(node: Node, **options: Any) -> AsyncIterator[Live]:
    async with node.http.ws_connect(f"{node.server.url}/v1/ws", **options) as ws:
        yield Live(ws)


def aged(token: str, **changes: Any) -> str:
    """The token with other claims, properly signed."""
    claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])
    return jwt.encode({**claims, **changes}, JWT_SECRET, algorithm="HS256")


async def test_signing_in_with_a_message(node: Node) -> None:
    async with stranger(node) as they:
        await they.say("authenticate", method="jwt", token=node.root.token)
        said = await they.next("auth_success")
        assert (said["user"], said["role"]) == ("root", "system")
        assert said["protocol"] == {"serialization": "json", "compression": "gzip"}
        other = await node.user("relogin")
        await they.say("authenticate", method="jwt", token=other.token)
        assert (await they.next("error"))["code"] == "AUTH_REQUIRED", "who it is never changes"
        await they.say("authenticate", method="jwt", token=node.root.token)
        assert (await they.next("auth_success"))["user"] == "root"


async def test_signing_in_with_a_header(node: Node) -> None:
    headers = {"Authorization": f"Bearer {node.root.token}"}
    async with stranger(node, headers=headers) as they:
        assert (await they.next("auth_success"))["user"] == "root"
        await they.quiet()


def bad_tokens(node: Node) -> dict[str, str]:
    token = node.root.token
    now = int(time.time())
    return {
        "empty": "",
        "noise": "x.y.z",
        "forged": jwt.encode({"sub": "root"}, "another-secret-of-more-than-thirty-two-bytes!!"),
        "expired": aged(token, exp=now - 120),
        "refresh": aged(token, token_type="refresh"),
        "role": aged(token, role="dba"),
        "nobody": aged(token, sub="nobody"),
    }


@pytest.mark.parametrize(
    "kind", ["empty", "noise", "forged", "expired", "refresh", "role", "nobody"]
)
@pytest.mark.parametrize("place", ["message", "header"])
async def test_a_bad_token_is_told_and_closed(node: Node, kind: str, place: str) -> None:
    token = bad_tokens(node)[kind]
    headers = {"Authorization": f"Bearer {token}"} if place == "header" else {}
    async with stranger(node, headers=headers) as they:
        if place == "message":
            await they.say("authenticate", method="jwt", token=token)
        code, frames = await they.closed()
        assert [frame["type"] for frame in frames] == ["auth_error"]
        assert code == 1008


async def test_other_ways_to_sign_in_are_refused(node: Node) -> None:
    async with stranger(node, headers={"Authorization": "Basic cm9vdDpyb290"}) as they:
        assert (await they.closed())[0] == 1008
    async with stranger(node) as they:
        await they.say("authenticate", method="basic", username="root", password="x")
        assert (await they.closed())[0] == 1008


async def test_who_does_not_sign_in_is_closed_in_time(node: Node) -> None:
    started = time.monotonic()
    async with stranger(node) as they:
        await they.subscribe("early", ROOM_A, {})
        refused = await they.next("error")
        assert (refused["subscription_id"], refused["code"]) == ("subscribe", "AUTH_REQUIRED")
        await they.say("unsubscribe", subscription_id="x")
        await they.say("next_batch", subscription_id="x")
        code, frames = await they.closed()
        assert [frame["type"] for frame in frames] == ["auth_error"]
        assert code == 1008
    assert AUTH_TIMEOUT_S * 0.9 < time.monotonic() - started < AUTH_TIMEOUT_S + 2


async def test_a_token_that_runs_out_ends_the_connection(node: Node) -> None:
    user = await node.user("expiring")
    token = aged(user.token, exp=int(time.time()) - 59)  # sixty seconds are forgiven
    async with stranger(node) as they:
        await they.say("authenticate", method="jwt", token=token)
        await they.next("auth_success")
        started = time.monotonic()
        code, frames = await they.closed()
        assert (code, frames[-1]["type"]) == (1008, "auth_error")
        assert time.monotonic() - started < ENDED_WITHIN_S


# ---- what is refused ----------------------------------------------------------------------------

REFUSED = [
    ("SELECT room FROM app.msgs HAVING true", "INVALID_SQL", ""),
    ("SELECT id FROM app.msgs FETCH FIRST 5 ROWS ONLY", "UNSUPPORTED", ""),
    ("SELECT m.id, n.id FROM app.msgs m JOIN app.news n ON m.id = n.id", "INVALID_SQL", "alias"),
    ("SELECT id FROM app.msgs WHERE body = now()", "UNSUPPORTED", "time"),
    ("SELECT id FROM app.msgs ORDER BY random()", "UNSUPPORTED", "random"),
    ("SELECT * FROM system.tables", "UNSUPPORTED", "system"),
    ("SELECT id FROM all_users.app.msgs", "UNAUTHORIZED", ""),
    ("SELECT 1", "UNSUPPORTED", ""),
    ("SELECT id FROM app.msgs FOR UPDATE", "UNSUPPORTED", "FOR UPDATE"),
    ("SELECT id FROM app.msgs; SELECT id FROM app.news", "*", ""),
    ("", "*", ""),
    ("INSERT INTO app.msgs (id) VALUES (7)", "INVALID_SQL", ""),
    ("DROP TABLE app.msgs", "INVALID_SQL", ""),
    ("EXECUTE AS 'bob' (SELECT id FROM app.msgs)", "*", ""),
    ("SELEC id FROM app.msgs", "INVALID_SQL", ""),
    ("SELECT nope FROM app.msgs", "INVALID_SQL", "nope"),
    ("SELECT id FROM app.msgs WHERE nope = 1", "INVALID_SQL", "nope"),
    ("SELECT id FROM app.msgs WHERE id", "INVALID_SQL", ""),
    ("SELECT id FROM app.msgs WHERE id = $1", "SUBSCRIPTION_FAILED", ""),
    ("SELECT id FROM app.nope", "NOT_FOUND", "nope"),
    ("SELECT id FROM nope.msgs", "NOT_FOUND", "nope"),
    ("SELECT id FROM msgs", "NOT_FOUND", "msgs"),
    ("SELECT id FROM app.msgs WHERE " + "(" * 10_000 + "true" + ")" * 10_000, "*", ""),
    ("SELECT id FROM app.msgs WHERE " + "NOT " * 10_000 + "true", "*", ""),
    ("SELECT id FROM app.msgs WHERE id = 1" + " OR id = 1" * 10_000, "*", ""),
    ("SELECT id FROM app.msgs WHERE body = 'a\0b'", "*", ""),
]


@pytest.mark.parametrize(("sql", "code", "named"), REFUSED)
async def test_a_refused_query_is_named(node: Node, sql: str, code: str, named: str) -> None:
    alice = await node.user("refused")
    async with live(alice) as they:
        await they.subscribe("r", sql, {})
        frame = await they.next("error")
        assert frame["subscription_id"] == "r"
        assert frame["code"] == code or (
            code == "*"
            and frame["code"] in ("INVALID_SQL", "UNSUPPORTED", "LIMIT_REACHED", "PROTOCOL")
        ), frame
        assert named.lower() in frame["message"].lower()
        assert len(frame["message"]) < 1000
        await they.quiet()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"batch_size": 0}, "*"),
        ({"batch_size": -1}, "*"),
        ({"batch_size": 1 << 40}, "*"),
        ({"batch_size": "2"}, "PROTOCOL"),
        ({"last_rows": -1}, "*"),
        ({"last_rows": 1 << 40}, "UNSUPPORTED"),
        ({"last_rows": 1.5}, "PROTOCOL"),
        ({"from": -1}, "*"),
        ({"from": "x"}, "*"),
        ({"from": 1 << 80}, "*"),
        ({"from": "9" * 500}, "*"),
        ({"from": []}, "PROTOCOL"),
        ({"on_expired": "never"}, "*"),
    ],
)
async def test_refused_options(node: Node, options: dict[str, Any], code: str) -> None:
    async with live(await node.user("refused")) as they:
        await they.subscribe("o", "SELECT id FROM app.msgs", options)
        frame = await they.next("error")
        assert frame["code"] == code or (
            code == "*" and frame["code"] in ("PROTOCOL", "UNSUPPORTED", "SUBSCRIPTION_FAILED")
        ), frame
        await they.quiet()


@pytest.mark.parametrize("id_", ["", "   ", "\t\n", "x" * 257, "x" * 100_000])
async def test_a_blank_or_endless_id_is_refused(node: Node, id_: str) -> None:
    async with live(node.root) as they:
        await they.subscribe(id_, "SELECT id FROM app.msgs", {})
        frame = await they.next("error")
        assert frame["code"] == "INVALID_SUBSCRIPTION_ID"
        assert frame["subscription_id"] == "invalid_subscription"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '{"type": "ping"',
        '{"type": "ping"} {"type": "ping"}',
        "",
        '{"type": "ping", "x": ' + "[" * 100_000,
        '{"type": "subscribe", "subscription": {"id": "\\ud800", "sql": "SELECT 1"}}',
    ],
)
async def test_bad_json_closes(node: Node, text: str) -> None:
    async with live(node.root) as they:
        await they.ws.send_str(text)
        code, frames = await they.closed()
        assert code == 1011
        assert all(frame["code"] == "PROTOCOL" for frame in frames)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '"ping"',
        '{"type": "nonsense"}',
        '{"type": null}',
        '{"type": "subscribe"}',
        '{"type": "subscribe", "subscription": {"id": 1, "sql": "SELECT 1"}}',
        '{"type": "subscribe", "subscription": {"id": "x"}}',
        '{"type": "next_batch"}',
        '{"type": "next_batch", "subscription_id": "x", "last_seq_id": {}}',
        '{"type": "unsubscribe", "subscription_id": []}',
        '{"type": "authenticate", "token": 7}',
        "[" * 100_000 + "]" * 100_000,
        '{"type": "subscribe", "subscription": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
async def test_a_message_of_another_shape_is_told(node: Node, text: str) -> None:
    async with live(node.root) as they:
        await they.ws.send_str(text)
        frame = await they.next("error")
        assert frame["code"] == "PROTOCOL"
        await they.quiet()


async def test_a_binary_message_is_told_and_the_connection_stays(node: Node) -> None:
    async with live(node.root) as they:
        await they.ws.send_bytes(b'{"type":"ping"}')
        assert (await they.next("error"))["code"] == "UNSUPPORTED_DATA"
        await they.quiet()


async def test_an_oversize_message_is_told_and_the_connection_stays(node: Node) -> None:
    async with live(node.root) as they:
        await they.ws.send_str('{"type": "ping", "x": "' + "x" * MIB + '"}')
        assert (await they.next("error"))["code"] == "MESSAGE_TOO_LARGE"
        await they.quiet()


async def test_too_many_messages_are_told_and_not_read(node: Node) -> None:
    async with live(node.root) as they:
        for _ in range(700):
            await they.say("ping")
        frame = await they.next("error")
        assert (frame["subscription_id"], frame["code"]) == ("rate_limit", "RATE_LIMIT_EXCEEDED")


async def test_subscriptions_are_limited(node: Node) -> None:
    alice = await node.user("greedy")
    async with live(alice) as first, live(alice) as second:
        for number in range(SUBSCRIPTIONS_PER_SOCKET):
            await first.subscribe(f"s{number}", "SELECT id FROM app.msgs")
            await first.next("subscription_ack")
        await first.subscribe("over", "SELECT id FROM app.msgs")
        assert (await first.next("error"))["code"] == "SUBSCRIPTION_LIMIT_EXCEEDED"
        await first.subscribe("s0", "SELECT id FROM app.msgs")
        await first.next("subscription_ack")
        for number in range(SUBSCRIPTIONS_PER_USER - SUBSCRIPTIONS_PER_SOCKET):
            await second.subscribe(f"s{number}", "SELECT id FROM app.msgs")
            await second.next("subscription_ack")
        await second.subscribe("over", "SELECT id FROM app.msgs")
        assert (await second.next("error"))["code"] == "SUBSCRIPTION_LIMIT_EXCEEDED"
        await first.say("unsubscribe", subscription_id="s1")
        await first.quiet()
        await second.subscribe("over", "SELECT id FROM app.msgs")
        await second.next("subscription_ack")
    async with live(alice) as third:  # a connection that ended gives back what it held
        await third.subscribe("s", "SELECT id FROM app.msgs")
        frame = await third.next()
        while frame["type"] == "error":
            await third.subscribe("s", "SELECT id FROM app.msgs")
            frame = await third.next()
        assert frame["type"] == "subscription_ack"


# ---- frames -------------------------------------------------------------------------------------


async def test_only_large_frames_are_packed(node: Node) -> None:
    alice = await node.user("packed")
    async with live(alice) as they:
        await they.snapshot("m", "SELECT id, body FROM app.msgs", {})
        assert they.packed == 0
        await alice.ok("INSERT INTO app.msgs (id, body) VALUES (0, '')")
        await alice.ok("INSERT INTO app.msgs (id, body) VALUES (1, '')")
        await they.next("change")
        message = await they.ws.receive_str()
        room = PACKED_FROM_BYTES - len(message)
        for key, length, packed in ((2, room - 1, 0), (3, room, 1), (4, 5000, 1)):
            before = they.packed
            await alice.ok("INSERT INTO app.msgs (id, body) VALUES ($1, $2)", [key, "x" * length])
            assert (await they.next("change"))["rows"][0]["body"] == "x" * length
            assert they.packed - before == packed, length
        await they.snapshot("again", "SELECT id, body FROM app.msgs", {})
        assert they.packed > 2


@pytest.mark.parametrize(("query", "compression"), [("?compress=false", "gzip"), ("", "none")])
async def test_who_wants_no_packing_gets_text(node: Node, query: str, compression: str) -> None:
    alice = await node.user("plain")
    async with live(alice, query=query, compression=compression) as they:
        await they.snapshot("m", "SELECT id, body FROM app.msgs", {})
        await alice.ok("DELETE FROM app.msgs WHERE id = 1")
        await alice.ok("INSERT INTO app.msgs (id, body) VALUES (1, $1)", ["x" * 5000])
        frame = await they.next("change")
        while frame["change_type"] == "delete":
            frame = await they.next("change")
        assert they.packed == 0


async def test_pings(node: Node) -> None:
    headers = {"Authorization": f"Bearer {node.root.token}"}
    async with stranger(node, headers=headers, autoping=False) as they:
        await they.next("auth_success")
        await they.say("ping")
        await they.next("pong")
        await they.ws.ping(b"hello")
        message = await they.ws.receive(5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"hello")


async def test_a_goodbye_is_answered(node: Node) -> None:
    async with live(node.root) as they:
        await they.ws.close(code=1000)
        assert they.ws.close_code == 1000


# ---- a slow reader ------------------------------------------------------------------------------


def resident_bytes(node: Node) -> int:
    assert node.server.process is not None
    status = Path(f"/proc/{node.server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def slow_closed(node: Node) -> int:
    """How many connections the node has closed for being slow."""
    with urllib.request.urlopen(f"{node.server.url}/metrics", timeout=5) as response:
        said = response.read().decode()
    (found,) = re.findall(r"^\S*slow_closed\S* (\S+)$", said, re.MULTILINE)
    return int(float(found))


async def ping(speaker: Live, done: asyncio.Event) -> None:
    while not done.is_set():
        await speaker.say("ping")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 1)


def narrow_socket(address: Any) -> socket.socket:
    """A socket in whose buffers little finds room, so that not reading is felt soon."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    return made


async def test_readers_that_do_not_read_are_closed_and_cost_little(node: Node) -> None:
    alice = await node.user("slow")
    quick = await node.user("slow-bystander")
    upsert = (
        "INSERT INTO app.msgs (id, body) VALUES ($1, $2)"
        " ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body"
    )
    body = "x" * SLOW_BODY_BYTES
    start = resident_bytes(node)
    for key in range(SLOW_CHANGES):
        await alice.ok(upsert, [key, body])
    before = resident_bytes(node)
    alone = before - start  # what the store itself takes for as much
    async with contextlib.AsyncExitStack() as stack:
        silent = await stack.enter_async_context(live(node.root))
        bystander = await stack.enter_async_context(live(quick))
        await bystander.snapshot("q", "SELECT id FROM app.msgs", {})
        connector = aiohttp.TCPConnector(limit=0, socket_factory=narrow_socket)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        lazy = Client(http, alice.url, alice.token)
        slow: list[Live] = []
        for _ in range(SLOW_READERS):
            they = await stack.enter_async_context(live(lazy, compression="none"))
            await they.subscribe("m", "SELECT id, body FROM app.msgs")
            await they.next("subscription_ack")
            slow.append(they)
        done = asyncio.Event()
        pinging = asyncio.create_task(ping(bystander, done))
        for key in range(SLOW_CHANGES):
            await alice.ok(upsert, [key, body])
        grown = resident_bytes(node) - before - alone
        asked = time.monotonic()
        await quick.ok("INSERT INTO app.msgs (id) VALUES (1)")
        assert ids((await bystander.next("change"))["rows"]) == [1]
        assert time.monotonic() - asked < 0.5, "nobody waits for them"
        assert grown < SLOW_READERS * SLOW_CHANGES * SLOW_BODY_BYTES / 3

        await wait_until(
            lambda: slow_closed(node) == SLOW_READERS, what="the slow are closed", timeout_s=15
        )
        done.set()
        await pinging
        code, frames = await slow[0].closed()
        assert await silent.closed() == (1000, []), "reads, but never says that it lives"
    *seen, last = frames
    assert (code, last["code"]) == (1013, "SLOW_CONSUMER")
    keys = ids([frame["rows"][0] for frame in seen])
    assert keys == list(range(len(keys)))
    assert 0 < len(keys) < SLOW_CHANGES
    assert last["cursors"] == {"m": seen[-1]["seq"]}
    async with live(alice) as they:
        sql = "SELECT id, body FROM app.msgs"
        assert await they.snapshot("m", sql, {"from": last["cursors"]["m"]}) == []
        missed = [await they.next("change") for _ in range(SLOW_CHANGES - len(keys))]
        assert ids([frame["rows"][0] for frame in missed]) == list(range(len(keys), SLOW_CHANGES))


async def test_the_log_has_no_error(node: Node) -> None:
    """Stands last: nothing above was a bug that hid behind a right frame."""
    said = node.server.log.read_text()
    assert '"level":"error"' not in said, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
