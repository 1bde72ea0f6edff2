"""What a live query says over the wire: rows, changes, resuming, and whose they are."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.contract import Node, ids, live, one_node
from tests.e2e.server import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECONNECTS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with one_node(tmp_path_factory.mktemp("live") / "data") as node:
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


def event(frame: dict[str, Any]) -> tuple[str, Any, Any, str]:
    """What a change says, apart from how it was delivered."""
    return frame["change_type"], frame.get("rows"), frame.get("old_values"), frame["seq"]


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
        for before, after in itertools.pairwise(frames):
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
            cursor, ended = "0", False
            for attempt in range(RECONNECTS + 1):
                async with live(alice) as they:
                    rows = await they.snapshot("m", ROOM_A, {"from": cursor})
                    assert rows == [], "nothing was there when the steady one began"
                    if attempt == 0:
                        tasks.create_task(write_much(alice, done))
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
        assert frame["message"] == "table app.brief was dropped"
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


async def test_the_log_has_no_error(node: Node) -> None:
    """Stands last: nothing above was a bug that hid behind a right frame."""
    said = node.server.log.read_text()
    assert '"level":"error"' not in said, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
