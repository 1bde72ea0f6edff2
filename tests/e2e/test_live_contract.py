"""`GET /v1/ws` over the wire: what a live query says, refuses, and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio

from tests.e2e.contract import Live, Node, live, one_node
from tests.e2e.server import JWT_SECRET, Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTH_TIMEOUT_S = 0.5
CLIENT_TIMEOUT_S = 2.0
SUBSCRIPTIONS_PER_USER = 150
SUBSCRIPTIONS_PER_SOCKET = 100
PACKED_FROM_BYTES = 512
ENDED_WITHIN_S = 5.0
RECONNECTS = 20
SLOW_READERS, SLOW_CHANGES, SLOW_BODY_BYTES = 8, 60, 200_000
MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    env = {
        "KALAMDB_WEBSOCKET_AUTH_TIMEOUT_S": str(AUTH_TIMEOUT_S),
        "KALAMDB_WEBSOCKET_CLIENT_TIMEOUT_S": str(CLIENT_TIMEOUT_S),
        "KALAMDB_WEBSOCKET_HEARTBEAT_INTERVAL_S": "0.2",
        "KALAMDB_WEBSOCKET_MAX_SUBSCRIPTIONS_PER_USER": str(SUBSCRIPTIONS_PER_USER),
        "KALAMDB_WEBSOCKET_MAX_PENDING_BYTES": str(256 * 1024),
    }
    async with one_node(tmp_path_factory.mktemp("live") / "data", env) as node:
        await node.root.ok(
            "CREATE USER TABLE app.msgs (id INT PRIMARY KEY, room TEXT, body TEXT, n BIGINT);"
            "CREATE SHARED TABLE app.news (id INT PRIMARY KEY, v TEXT)"
            " WITH (ACCESS_LEVEL = 'public');"
            "CREATE SHARED TABLE app.secret (id INT PRIMARY KEY, v TEXT);"
            "CREATE STREAM TABLE app.typing (id INT PRIMARY KEY, v TEXT) WITH (TTL_SECONDS = 1)"
        )
        yield node


ROOM_A = "SELECT id, body FROM app.msgs WHERE room = 'a'"
ALL = "SELECT id, room, body, n FROM app.msgs"


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


def event(frame: dict[str, Any]) -> tuple[str, Any, Any, str]:
    """What a change says, apart from how it was delivered."""
    return frame["change_type"], frame.get("rows"), frame.get("old_values"), frame["seq"]


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
        assert (await they.next("auth_success"))["user"] == "root", "who it is never changes"


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


# ---- subscribing --------------------------------------------------------------------------------


async def test_without_options_there_are_no_rows(node: Node) -> None:
    alice = await node.user("no-options")
    await alice.ok("INSERT INTO app.msgs VALUES (1, 'a', 'old', 1)")
    async with live(alice) as they:
        await they.subscribe("m", ROOM_A)
        ack = await they.next("subscription_ack")
        assert ack["subscription_id"] == "m"
        assert ack["total_rows"] == 0
        control = {"batch_num": 0, "has_more": False, "status": "ready", "last_seq_id": None}
        assert ack["batch_control"] == control
        assert ack["schema"] == [
            {"name": "id", "data_type": "Int", "index": 0, "flags": ["pk", "nn", "uq"]},
            {"name": "body", "data_type": "Text", "index": 1},
        ]
        await alice.ok("INSERT INTO app.msgs VALUES (2, 'a', 'new', 1)")
        change = await they.next("change")
        assert change["rows"] == [{"id": 2, "body": "new", "_seq": change["seq"]}]


async def test_empty_options_ask_for_all_rows(node: Node) -> None:
    alice = await node.user("all-rows")
    async with live(alice) as they:
        assert await they.snapshot("empty", ALL, {}) == []
        await alice.ok(
            "INSERT INTO app.msgs VALUES (2, 'a', 'x', 9007199254740993), (1, 'b', NULL, NULL)"
        )
        await alice.ok("UPDATE app.msgs SET body = 'y' WHERE id = 2")
        await alice.ok("INSERT INTO app.msgs VALUES (3, 'a', 'gone', 0)")
        await alice.ok("DELETE FROM app.msgs WHERE id = 3")
        for _ in range(5):
            await they.next("change")
        rows = await they.snapshot("m", ALL, {})
        assert ids(rows) == [1, 2], "by _seq"
        assert rows[0] == {"id": 1, "room": "b", "body": None, "n": None, "_seq": rows[0]["_seq"]}
        assert rows[1]["n"] == "9007199254740993"
        assert int(rows[0]["_seq"]) < int(rows[1]["_seq"])
        star = await they.snapshot("s", "SELECT * FROM app.msgs", {})
        assert set(star[0]) == {"id", "room", "body", "n", "_seq", "_deleted"}


async def test_last_rows(node: Node) -> None:
    alice = await node.user("last-rows")
    await alice.ok("INSERT INTO app.msgs (id, room) VALUES (1, 'a'), (2, 'a'), (3, 'b'), (4, 'a')")
    async with live(alice) as they:
        assert ids(await they.snapshot("two", ROOM_A, {"last_rows": 2})) == [2, 4]
        assert ids(await they.snapshot("many", ROOM_A, {"last_rows": 99})) == [1, 2, 4]
        assert await they.snapshot("none", ROOM_A, {"last_rows": 0}) == []
        await they.subscribe("over", ROOM_A, {"last_rows": 3, "batch_size": 2})
        assert (await they.next("error"))["code"] == "UNSUPPORTED"


async def test_pages_are_of_one_moment_and_changes_follow(node: Node) -> None:
    alice = await node.user("pages")
    await alice.ok("INSERT INTO app.msgs (id, room) VALUES (1, 'a'), (2, 'a'), (3, 'a'), (4, 'a')")
    async with live(alice) as they:
        await they.subscribe("m", "SELECT id, room FROM app.msgs", {"batch_size": 2})
        ack = await they.next("subscription_ack")
        page = await they.next("initial_data_batch")
        assert page["batch_control"] == ack["batch_control"]
        assert ids(page["rows"]) == [1, 2]
        assert page["batch_control"] | {"last_seq_id": 0} == {
            "batch_num": 0,
            "has_more": True,
            "status": "loading",
            "last_seq_id": 0,
        }
        assert str(page["batch_control"]["last_seq_id"]) == page["rows"][-1]["_seq"]
        assert "seq" not in page
        await alice.ok("UPDATE app.msgs SET room = 'moved' WHERE id = 3")
        await alice.ok("DELETE FROM app.msgs WHERE id = 1")
        await alice.ok("INSERT INTO app.msgs (id, room) VALUES (5, 'a')")
        last = page["batch_control"]["last_seq_id"]
        await they.say("next_batch", subscription_id="m", last_seq_id=int(last))
        page = await they.next("initial_data_batch")
        assert ids(page["rows"]) == [3, 4]
        assert page["rows"][0]["room"] == "a"
        control = page["batch_control"]
        assert (control["batch_num"], control["has_more"], control["status"]) == (1, False, "ready")
        frames = [await they.next("change") for _ in range(3)]
        assert [frame["change_type"] for frame in frames] == ["update", "delete", "insert"]
        await they.say("next_batch", subscription_id="m")
        await they.say("next_batch", subscription_id="unknown")
        assert (await they.next("error"))["code"] == "BATCH_FETCH_FAILED"


async def test_a_middle_page_says_so(node: Node) -> None:
    alice = await node.user("middle")
    await alice.ok("INSERT INTO app.msgs (id) VALUES (1), (2), (3)")
    async with live(alice) as they:
        await they.subscribe("m", "SELECT id FROM app.msgs", {"batch_size": 1})
        await they.next("subscription_ack")
        statuses: list[str] = []
        while True:
            control = (await they.next("initial_data_batch"))["batch_control"]
            statuses.append(control["status"])
            if not control["has_more"]:
                break
            last = control["last_seq_id"]
            await they.say("next_batch", subscription_id="m", last_seq_id=last)
        assert statuses == ["loading", "loading_batch", "ready"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            "UPDATE app.msgs SET body = NULL WHERE id = 1",
            ("update", {"id": 1, "body": None}, {"id": 1, "body": "x"}),
        ),
        (
            "UPDATE app.msgs SET body = 'z' WHERE id = 1",
            ("update", {"id": 1, "body": "z"}, {"id": 1, "body": "x"}),
        ),
        (
            "UPDATE app.msgs SET n = 5 WHERE id = 1",
            ("update", {"id": 1, "body": "x"}, {"id": 1}),
        ),
        (
            "UPDATE app.msgs SET room = 'b' WHERE id = 1",
            ("delete", None, {"id": 1, "body": "x"}),
        ),
        (
            "UPDATE app.msgs SET room = NULL WHERE id = 1",
            ("delete", None, {"id": 1, "body": "x"}),
        ),
        ("DELETE FROM app.msgs WHERE id = 1", ("delete", None, {"id": 1, "body": "x"})),
        (
            "UPDATE app.msgs SET room = 'a' WHERE id = 2",
            ("insert", {"id": 2, "body": "y"}, None),
        ),
        (
            "INSERT INTO app.msgs (id, room) VALUES (3, 'a')",
            ("insert", {"id": 3, "body": None}, None),
        ),
        (
            "INSERT INTO app.msgs (id, body) VALUES (1, 'w')"
            " ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body",
            ("update", {"id": 1, "body": "w"}, {"id": 1, "body": "x"}),
        ),
        ("UPDATE app.msgs SET body = 'q' WHERE id = 2", None),
        ("DELETE FROM app.msgs WHERE id = 2", None),
        ("INSERT INTO app.msgs (id, room) VALUES (3, 'b')", None),
        ("UPDATE app.msgs SET body = 'q' WHERE id = 77", None),
    ],
)
async def test_what_a_change_is_called(node: Node, changes: str, expected: Any) -> None:
    alice = await node.user("changes")
    await alice.ok("DELETE FROM app.msgs WHERE id > 0")
    await alice.ok("INSERT INTO app.msgs VALUES (1, 'a', 'x', 1), (2, 'b', 'y', NULL)")
    async with live(alice) as they:
        await they.snapshot("m", ROOM_A, {})
        await alice.ok(changes)
        await alice.ok("INSERT INTO app.msgs VALUES (99, 'a', 'end', 0)")
        frame = await they.next("change")
        while "rows" in frame and frame["rows"][0]["id"] == 99 and expected is not None:
            pytest.fail(f"no change for {changes}")
        if expected is None:
            assert ids(frame["rows"]) == [99]
            return
        kind, row, old = expected
        seq = frame["seq"]
        assert frame["change_type"] == kind
        assert frame.get("rows") == (None if row is None else [{**row, "_seq": seq}])
        if old is None:
            assert "old_values" not in frame
        else:
            shown = frame["old_values"][0]
            assert {name: shown[name] for name in shown if name != "_seq"} == old
            assert (shown["_seq"] == seq) is (kind == "delete")


async def test_frames_of_one_statement_are_chained_and_closed(node: Node) -> None:
    alice = await node.user("chained")
    async with live(alice) as they:
        await they.subscribe("m", "SELECT id FROM app.msgs")
        await they.next("subscription_ack")
        await alice.ok("INSERT INTO app.msgs (id) VALUES (1), (2), (3)")
        await alice.ok("DELETE FROM app.msgs WHERE id > 1")
        frames = [await they.next("change") for _ in range(5)]
        assert [frame["commit"] for frame in frames] == [False, False, True, False, True]
        assert frames[0]["prev_seq"] == "0"
        for before, after in zip(frames, frames[1:], strict=False):
            assert after["prev_seq"] == before["seq"]


async def test_a_table_without_key_is_known_by_its_row_id(node: Node) -> None:
    await node.root.ok("CREATE USER TABLE app.keyless (v TEXT)")
    alice = await node.user("keyless")
    async with live(alice) as they:
        await they.snapshot("m", "SELECT v FROM app.keyless", {})
        await alice.ok("INSERT INTO app.keyless VALUES ('x')")
        row_id = (await they.next("change"))["rows"][0]["_row_id"]
        await alice.ok("DELETE FROM app.keyless WHERE v = 'x'")
        assert (await they.next("change"))["old_values"][0]["_row_id"] == row_id


# ---- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), [("from", int), ("from", str), ("from_seq_id", str)])
async def test_resume_tells_what_was_missed_deletes_included(
    node: Node, name: str, form: type
) -> None:
    alice = await node.user(f"resume-{name.replace('_', '-')}-{form.__name__}")
    await alice.ok(
        "INSERT INTO app.msgs VALUES (1, 'a', 'x', 1), (2, 'a', 'y', 1), (3, 'b', 'z', 1)"
    )
    async with live(alice) as they:
        await they.snapshot("m", ROOM_A, {})
        await alice.ok("UPDATE app.msgs SET body = 'seen' WHERE id = 1")
        cursor = (await they.next("change"))["seq"]
    await alice.ok("DELETE FROM app.msgs WHERE id = 2")
    await alice.ok("UPDATE app.msgs SET body = 'missed' WHERE id = 1")
    await alice.ok("UPDATE app.msgs SET room = 'b' WHERE id = 1")
    await alice.ok("UPDATE app.msgs SET room = 'a' WHERE id = 3")
    async with live(alice) as they:
        assert await they.snapshot("m", ROOM_A, {name: form(cursor)}) == []
        await alice.ok("INSERT INTO app.msgs VALUES (4, 'a', 'live', 1)")
        frames = [await they.next("change") for _ in range(5)]
        kinds = [frame["change_type"] for frame in frames]
        assert kinds == ["delete", "update", "delete", "insert", "insert"]
        assert frames[0]["old_values"][0]["id"] == 2
        assert frames[0]["prev_seq"] == cursor
        seqs = [int(frame["seq"]) for frame in frames]
        assert seqs == sorted(set(seqs))


async def test_from_zero_is_everything(node: Node) -> None:
    alice = await node.user("zero")
    await alice.ok("INSERT INTO app.msgs (id) VALUES (1), (2)")
    async with live(alice) as they:
        assert ids(await they.snapshot("m", "SELECT id FROM app.msgs", {"from": 0})) == [1, 2]
        assert ids(await they.snapshot("n", "SELECT id FROM app.msgs", {"from": "0"})) == [1, 2]


async def test_a_cursor_ahead_is_expired_or_starts_anew(node: Node) -> None:
    alice = await node.user("ahead")
    await alice.ok("INSERT INTO app.msgs (id) VALUES (1)")
    ahead = str(1 << 62)
    async with live(alice) as they:
        await they.subscribe("m", "SELECT id FROM app.msgs", {"from": ahead})
        frame = await they.next("error")
        assert (frame["code"], frame["reason"]) == ("CURSOR_EXPIRED", "ahead")
        options = {"from": ahead, "on_expired": "snapshot"}
        await they.subscribe("m", "SELECT id FROM app.msgs", options)
        assert (await they.next("subscription_ack"))["reset"] is True
        assert ids((await they.next("initial_data_batch"))["rows"]) == [1]


async def write_much(writer: Client, done: asyncio.Event) -> None:
    """Changes of every kind until `done`, then one that closes them."""
    number = 0
    while not done.is_set():
        number += 1
        key = number % 40
        await writer.ok(
            "INSERT INTO app.msgs VALUES ($1, $2, $3, 1) ON CONFLICT (id) DO UPDATE"
            " SET room = EXCLUDED.room, body = EXCLUDED.body",
            [key, "a" if number % 3 else "b", str(number)],
        )
        if number % 4 == 0:
            await writer.ok("DELETE FROM app.msgs WHERE id = $1", [(number * 7) % 40])
        if number % 9 == 0:
            await writer.ok(
                "INSERT INTO app.msgs (id, room) VALUES ($1, 'a'), ($2, 'a')",
                [1000 + number, 2000 + number],
            )
    await writer.ok("INSERT INTO app.msgs VALUES (-1, 'a', 'end', 0)")


def ends(frame: dict[str, Any]) -> bool:
    return "rows" in frame and frame["rows"][0]["id"] == -1


async def test_twenty_reconnects_lose_and_double_nothing(node: Node) -> None:
    alice = await node.user("reconnects")
    done = asyncio.Event()
    broken: list[Any] = []
    async with live(alice) as steady:
        await steady.snapshot("m", ROOM_A, {})
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(write_much(alice, done))
            cursor, ended = "0", False
            for attempt in range(RECONNECTS + 1):
                async with live(alice) as they:
                    rows = await they.snapshot("m", ROOM_A, {"from": cursor})
                    assert rows == [], "nothing was there when the steady one began"
                    taken = 0
                    while not ended and (taken < 1 + attempt % 5 or attempt == RECONNECTS):
                        frame = await they.next("change")
                        broken.append(event(frame))
                        cursor, taken, ended = frame["seq"], taken + 1, ends(frame)
                        if attempt == RECONNECTS:
                            done.set()
        whole: list[Any] = []
        while not whole or whole[-1][1] is None or whole[-1][1][0]["id"] != -1:
            whole.append(event(await steady.next("change")))
    assert broken == whole
    assert len(whole) > 60


# ---- what ends a subscription -------------------------------------------------------------------


async def test_dropping_the_table_ends_its_subscriptions(node: Node) -> None:
    await node.root.ok("CREATE USER TABLE app.brief (id INT PRIMARY KEY)")
    alice = await node.user("brief")
    async with live(alice) as they:
        await they.snapshot("a", "SELECT id FROM app.brief", {})
        await they.snapshot("other", "SELECT id FROM app.msgs", {})
        await alice.ok("INSERT INTO app.brief VALUES (1)")
        seq = (await they.next("change"))["seq"]
        await node.root.ok("DROP TABLE app.brief")
        frame = await they.next("error")
        assert (frame["subscription_id"], frame["code"]) == ("a", "TABLE_DROPPED")
        assert int(frame["seq"]) >= int(seq)
        await alice.ok("INSERT INTO app.msgs (id) VALUES (1)")
        assert (await they.next("change"))["subscription_id"] == "other"
        await they.subscribe("a", "SELECT id FROM app.brief", {"from": seq})
        assert (await they.next("error"))["code"] == "NOT_FOUND"
        await node.root.ok("CREATE USER TABLE app.brief (id INT PRIMARY KEY)")
        await they.subscribe("a", "SELECT id FROM app.brief", {})
        await they.next("subscription_ack")
        assert (await they.next("initial_data_batch"))["rows"] == []


async def test_unsubscribing_ends_the_changes(node: Node) -> None:
    alice = await node.user("unsubscribes")
    async with live(alice) as they:
        await they.snapshot("m", "SELECT id FROM app.msgs", {})
        await they.say("unsubscribe", subscription_id="m")
        await they.say("unsubscribe", subscription_id="never")
        await they.quiet()
        await alice.ok("INSERT INTO app.msgs (id) VALUES (1)")
        await they.quiet()


async def test_using_an_id_again_replaces_the_query(node: Node) -> None:
    alice = await node.user("again")
    async with live(alice) as they:
        await they.snapshot("m", ROOM_A, {})
        await they.snapshot("m", "SELECT id FROM app.msgs WHERE room = 'b'", {})
        await alice.ok("INSERT INTO app.msgs (id, room) VALUES (1, 'a'), (2, 'b')")
        assert ids((await they.next("change"))["rows"]) == [2]
        await they.quiet()


async def test_expired_stream_rows_are_not_shown(node: Node) -> None:
    alice = await node.user("stream")
    sql = "SELECT id, v FROM app.typing"
    async with live(alice) as they:
        assert await they.snapshot("s", sql, {}) == []
        await alice.ok("INSERT INTO app.typing VALUES (1, 'x')")
        assert ids((await they.next("change"))["rows"]) == [1]
        rows = [[1, "x"]]
        while rows:
            await they.say("ping")
            rows = (await alice.ok(sql)).rows
        assert await they.snapshot("t", sql, {}) == []
        assert (await alice.ok("SELECT id FROM app.typing WHERE id = 1")).rows == []
        await alice.ok("INSERT INTO app.typing VALUES (1, 'y')")
        frame = await they.next("change")
        while frame["change_type"] == "delete" and frame.get("expired"):
            frame = await they.next("change")
        assert frame["rows"][0]["v"] == "y"
        await alice.ok("DELETE FROM app.typing WHERE id = 1")
        kinds = {(await they.next("change"))["change_type"] for _ in range(2)}
        assert kinds <= {"delete", "insert"}


# ---- whose rows ---------------------------------------------------------------------------------


async def test_two_tenants_see_only_their_own(node: Node) -> None:
    alice, bob = await node.user("own-a"), await node.user("own-b")
    async with live(alice) as hers, live(bob) as his, live(node.root) as roots:
        for they in (hers, his, roots):
            await they.snapshot("m", "SELECT id, body FROM app.msgs", {})
        await alice.ok("INSERT INTO app.msgs (id, body) VALUES (1, 'hers')")
        await bob.ok("INSERT INTO app.msgs (id, body) VALUES (1, 'his')")
        service = await node.user("own-service", "service")
        await service.ok(
            "EXECUTE AS 'own-a' (INSERT INTO app.msgs (id, body) VALUES (2, 'for her'))"
        )
        assert (await hers.next("change"))["rows"][0]["body"] == "hers"
        assert (await hers.next("change"))["rows"][0]["body"] == "for her"
        assert (await his.next("change"))["rows"][0]["body"] == "his"
        for they in (hers, his, roots):
            await they.quiet()


async def test_shared_tables(node: Node) -> None:
    alice, bob = await node.user("shared-a"), await node.user("shared-b")
    service = await node.user("shared-s", "service")
    async with live(alice) as hers, live(bob) as his:
        for they in (hers, his):
            await they.snapshot("n", "SELECT id, v FROM app.news WHERE id > 0", {})
        await service.ok("INSERT INTO app.news VALUES (1, 'to all')")
        first, second = await hers.next("change"), await his.next("change")
        assert first == second
        await hers.subscribe("s", "SELECT id FROM app.secret", {})
        refused = await hers.next("error")
        assert (refused["subscription_id"], refused["code"]) == ("s", "UNAUTHORIZED")
    async with live(service) as they:
        assert await they.snapshot("s", "SELECT id FROM app.secret", {}) == []


async def test_two_subscriptions_on_one_socket(node: Node) -> None:
    alice = await node.user("two")
    async with live(alice) as they:
        await they.snapshot("a", ROOM_A, {})
        await they.snapshot("b", "SELECT id, n FROM app.msgs WHERE n > 5", {})
        await alice.ok("INSERT INTO app.msgs VALUES (1, 'a', 'x', 9)")
        frames = [await they.next("change") for _ in range(2)]
        assert {frame["subscription_id"] for frame in frames} == {"a", "b"}
        rows = {frame["subscription_id"]: frame["rows"][0] for frame in frames}
        seq = frames[0]["seq"]
        assert rows == {
            "a": {"id": 1, "body": "x", "_seq": seq},
            "b": {"id": 1, "n": "9", "_seq": seq},
        }


# ---- what is refused ----------------------------------------------------------------------------

REFUSED = [
    ("SELECT COUNT(*) FROM app.msgs", "UNSUPPORTED", "COUNT"),
    ("SELECT DISTINCT room FROM app.msgs", "UNSUPPORTED", "DISTINCT"),
    ("SELECT room FROM app.msgs GROUP BY room", "UNSUPPORTED", "GROUP BY"),
    ("SELECT room FROM app.msgs HAVING true", "UNSUPPORTED", "HAVING"),
    ("SELECT id FROM app.msgs ORDER BY id", "UNSUPPORTED", "ORDER BY"),
    ("SELECT id FROM app.msgs LIMIT 5", "UNSUPPORTED", "LIMIT"),
    ("SELECT id FROM app.msgs OFFSET 5", "UNSUPPORTED", "OFFSET"),
    ("SELECT id FROM app.msgs FETCH FIRST 5 ROWS ONLY", "UNSUPPORTED", ""),
    ("SELECT m.id FROM app.msgs m JOIN app.news n ON m.id = n.id", "UNSUPPORTED", "JOIN"),
    ("SELECT 1 FROM app.msgs, app.news", "UNSUPPORTED", ""),
    ("SELECT id FROM (SELECT id FROM app.msgs) AS s", "UNSUPPORTED", "subquer"),
    ("SELECT id FROM app.msgs WHERE id IN (SELECT id FROM app.news)", "UNSUPPORTED", "subquer"),
    ("WITH c AS (SELECT 1) SELECT id FROM app.msgs", "UNSUPPORTED", "WITH"),
    ("SELECT id FROM app.msgs UNION SELECT id FROM app.news", "UNSUPPORTED", "UNION"),
    ("SELECT row_number() OVER () FROM app.msgs", "UNSUPPORTED", ""),
    ("SELECT id + 1 FROM app.msgs", "UNSUPPORTED", ""),
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
    ("SELECT id FROM app.msgs WHERE id", "UNSUPPORTED", "INT"),
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
        assert (await first.next("error"))["code"] == "UNSUPPORTED"
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


async def test_bytes_that_do_not_shrink_are_not_packed(node: Node) -> None:
    alice = await node.user("dense")
    async with live(alice) as they:
        await they.subscribe("m", "SELECT id, body FROM app.msgs")
        await they.next("subscription_ack")
        for length in (600, 3000):
            body = "".join(chr(0x4E00 + (number * 7919) % 20000) for number in range(length))
            await alice.ok("INSERT INTO app.msgs (id, body) VALUES ($1, $2)", [length, body])
            assert (await they.next("change"))["rows"][0]["body"] == body


async def test_pings(node: Node) -> None:
    headers = {"Authorization": f"Bearer {node.root.token}"}
    async with stranger(node, headers=headers, autoping=False) as they:
        await they.next("auth_success")
        await they.say("ping")
        await they.ws.ping(b"hello")
        message = await they.ws.receive(5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"hello")


async def test_silence_closes(node: Node) -> None:
    async with live(node.root) as they:
        started = time.monotonic()
        code, frames = await they.closed()
        assert (code, frames) == (1000, [])
        assert CLIENT_TIMEOUT_S * 0.9 < time.monotonic() - started < CLIENT_TIMEOUT_S + 3


async def test_a_goodbye_is_answered(node: Node) -> None:
    async with live(node.root) as they:
        await they.ws.close(code=1000)
        assert they.ws.close_code == 1000


# ---- rights that end while connected ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("live-dropped", "DROP USER 'live-dropped'"),
        ("live-promoted", "ALTER USER 'live-promoted' SET ROLE service"),
        ("live-password", "ALTER USER 'live-password' SET PASSWORD 'another-long-password-1'"),
    ],
)
async def test_lost_rights_end_the_connection(node: Node, name: str, change: str) -> None:
    user = await node.user(name)
    async with live(user) as they:
        await they.snapshot("m", "SELECT id FROM app.msgs", {})
        await node.root.ok(change)
        started = time.monotonic()
        code, frames = await they.closed(ENDED_WITHIN_S)
        assert code == 1008
        assert frames[-1]["type"] == "auth_error"
        assert time.monotonic() - started < ENDED_WITHIN_S


# ---- a slow reader ------------------------------------------------------------------------------


def resident_bytes(node: Node) -> int:
    assert node.server.process is not None
    status = Path(f"/proc/{node.server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def slow_closed(node: Node) -> int:
    """How many connections the node has closed for being slow."""
    async with node.http.get(f"{node.server.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    found = [line for line in lines if "slow_closed" in line and not line.startswith("#")]
    assert len(found) == 1, found
    return int(float(found[0].split()[-1]))


async def ping_all(speakers: list[Live], done: asyncio.Event) -> None:
    """Say that they live, so that whoever is closed is closed for what it does not take in."""
    while not done.is_set():
        for they in speakers:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await they.say("ping")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), CLIENT_TIMEOUT_S / 4)


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
        bystander = await stack.enter_async_context(live(quick))
        await bystander.snapshot("q", "SELECT id FROM app.msgs", {})
        slow: list[Live] = []
        for _ in range(SLOW_READERS):
            they = await stack.enter_async_context(live(alice, compression="none"))
            await they.subscribe("m", "SELECT id, body FROM app.msgs")
            await they.next("subscription_ack")
            slow.append(they)
        done = asyncio.Event()
        pinging = asyncio.create_task(ping_all([bystander, *slow], done))
        for key in range(SLOW_CHANGES):
            await alice.ok(upsert, [key, body])
        grown = resident_bytes(node) - before - alone
        asked = time.monotonic()
        await quick.ok("INSERT INTO app.msgs (id) VALUES (1)")
        assert ids((await bystander.next("change"))["rows"]) == [1]
        assert time.monotonic() - asked < 0.5, "nobody waits for them"
        assert grown < SLOW_READERS * SLOW_CHANGES * SLOW_BODY_BYTES / 3

        async with asyncio.timeout(12):
            while await slow_closed(node) < SLOW_READERS:
                await bystander.quiet()
        done.set()
        await pinging
        code, frames = await slow[0].closed()
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
