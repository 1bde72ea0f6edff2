"""SQL over a connection: order, bounds, and what happens when the connection goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.protocol import Query
from kalamdb.edge.ws.queries import QUEUE_MAX, Queries, QueryServices
from kalamdb.errors import UnknownTable
from kalamdb.lib.clock import SystemClock
from kalamdb.lib.rates import Buckets
from kalamdb.model.principal import Principal, Role
from kalamdb.session.run import Conversation, SqlRequest

ALICE = Principal.of("alice", Role.USER)


class Wire:
    """A transport that reads back the text frames written to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def write(self, data: bytes, /) -> None:
        while data:
            size, at = data[1], 2
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(data[2:10], "big"), 10
            self.messages.append(json.loads(data[at : at + size]))
            data = data[at + size :]

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Talker:
    """A session that answers when it may; `SELECT bad` fails, `bug` breaks."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.asked: list[SqlRequest] = []
        self.gone: list[Conversation] = []

    async def converse(self, talk: Conversation, request: SqlRequest) -> bytes:
        self.asked.append(request)
        await self.may.wait()
        match request.sql:
            case "SELECT bad":
                raise UnknownTable("bad")
            case "bug":
                raise ZeroDivisionError
            case "large":
                return b'{"status":"success","results":["%b"]}' % (b"x" * 200_000)
            case _:
                return b'{"status":"success","results":[]}'

    def hang_up(self, talk: Conversation) -> None:
        self.gone.append(talk)


class Desk:
    """One connection's queries."""

    def __init__(self, talker: Talker | None, users: Buckets | None = None) -> None:
        self.wire = Wire()
        self.tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.wire, Flusher(loop), 1 << 20)
        self.outbox.packed = False
        services = QueryServices(talker, SystemClock(), ThreadPoolExecutor(1), users)
        self.queries = Queries(services, self.outbox, self.drained, self.spawn)
        self.reads = True

    async def drained(self) -> bool:
        self.outbox.flush()
        return self.reads

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    def ask(self, *texts: str) -> None:
        for number, text in enumerate(texts):
            self.queries.ask(Query(str(number), text), ALICE)

    async def through(self) -> list[dict[str, Any]]:
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.outbox.flush()
        return self.wire.messages


async def turn() -> None:
    """Let the worker begin."""
    passed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(passed.set_result, None)
    await passed


async def test_one_after_the_other() -> None:
    talker = Talker()
    desk = Desk(talker)
    desk.ask("a", "SELECT bad", "bug", "large", "b")
    said = await desk.through()
    assert [message["id"] for message in said] == ["0", "1", "2", "3", "4"]
    assert all(message["type"] == "result" for message in said)
    codes = [message.get("error", {}).get("code") for message in said]
    assert codes == [None, "SQL_EXECUTION_ERROR", "INTERNAL_ERROR", None, None]
    assert "ZeroDivision" not in str(said)
    assert len(said[3]["results"][0]) == 200_000
    desk.ask("c")  # a worker of its own each time, no task in between
    assert len(await desk.through()) == 6


async def test_the_queue_has_an_end() -> None:
    talker = Talker()
    talker.may.clear()
    desk = Desk(talker)
    desk.ask("first")
    await turn()
    desk.ask(*("x" for _ in range(QUEUE_MAX + 1)))
    talker.may.set()
    said = await desk.through()
    refused = [message for message in said if message["status"] == "error"]
    assert [(m["id"], m["error"]["code"]) for m in refused] == [(str(QUEUE_MAX), "OVERLOADED")]
    assert len(said) == QUEUE_MAX + 2


async def test_who_is_gone_is_rolled_back() -> None:
    """Also in the middle of a statement; what waited is not run."""
    talker = Talker()
    talker.may.clear()
    desk = Desk(talker)
    desk.ask("running", "waiting")
    await turn()
    desk.queries.close()
    assert await desk.through() == []
    assert [request.sql for request in talker.asked] == ["running"]
    assert len(talker.gone) == 1
    idle = Desk(talker)
    talker.may.set()
    idle.ask("done")
    await idle.through()
    idle.queries.close()
    assert len(talker.gone) == 2
    idle.ask("late")
    assert len(await idle.through()) == 1


async def test_a_client_that_does_not_read_gets_no_second_result() -> None:
    talker = Talker()
    desk = Desk(talker)
    desk.reads = False
    desk.ask("a", "b")
    await desk.through()
    assert [request.sql for request in talker.asked] == ["a"]


async def test_a_user_has_a_rate() -> None:
    desk = Desk(Talker(), Buckets(SystemClock(), 0.001, 2))
    desk.ask("a", "b", "c")
    said = await desk.through()
    codes = [message.get("error", {}).get("code") for message in said]
    assert codes == [None, None, "RATE_LIMIT_EXCEEDED"]


async def test_what_is_refused_at_once() -> None:
    desk = Desk(Talker())
    desk.queries.ask(Query("q", "SELECT 1"), None)
    desk.queries.ask(Query("i" * 300, "SELECT 1"), ALICE)
    desk.queries.ask(Query("nul", "SELECT '\0'"), ALICE)
    desk.queries.ask(Query("id", "SELECT 1", request_id=""), ALICE)
    said = await desk.through()
    assert [message["error"]["code"] for message in said] == [
        "MISSING_AUTHORIZATION",
        "INVALID_INPUT",
        "INVALID_INPUT",
        "INVALID_INPUT",
    ]
    without = Desk(None)
    without.ask("SELECT 1")
    assert (await without.through())[0]["error"]["code"] == "UNSUPPORTED"
