"""`kalam sql` and `kalam live` against a scripted server: what is printed where, and exit codes."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from kalamdb.cli.main import app

ROWS = {
    "schema": [{"name": "id", "data_type": "BigInt", "index": 0}, {"name": "body", "index": 1}],
    "rows": [["1", 'say "hi", friend'], ["2", None]],
    "row_count": 2,
}
DONE = {"row_count": 1, "message": "Inserted 1 row(s)"}


@dataclass
class Script:
    """What the server answers, and what it was sent."""

    status: int = 200
    answer: dict[str, Any] = field(default_factory=lambda: {"results": [ROWS, DONE]})
    frames: list[dict[str, Any]] = field(default_factory=list[Any])
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list[Any])
    url: str = ""

    async def login(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append(("login", body))
        if body["password"] != "right":
            refusal = {"error": "unauthorized", "message": "wrong user or password"}
            return web.json_response(refusal, status=401)
        return web.json_response({"access_token": "the-token"})

    async def sql(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer the-token"
        self.seen.append(("sql", await request.json()))
        return web.json_response(self.answer, status=self.status)

    async def live(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer the-token"
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.seen.append(("live", await socket.receive_json()))
        for frame in self.frames:
            if frame.get("pressed"):
                await socket.send_bytes(gzip.compress(json.dumps(frame).encode()))
            else:
                await socket.send_json(frame)
            if frame.get("batch_control", {}).get("has_more"):
                self.seen.append(("next", await socket.receive_json()))
        await socket.close()
        return socket

    async def kalam(self, *arguments: str, token: bool = True, text: str | None = None) -> Result:
        command = [*arguments, "--url", self.url, *(["--token", "the-token"] if token else [])]
        return await asyncio.to_thread(CliRunner().invoke, app, command, input=text)


@pytest.fixture
async def script() -> AsyncGenerator[Script, None]:
    made = Script()
    server = web.Application()
    server.router.add_post("/v1/api/auth/login", made.login)
    server.router.add_post("/v1/api/sql", made.sql)
    server.router.add_get("/v1/ws", made.live)
    async with TestServer(server) as running:
        made.url = str(running.make_url("/")).rstrip("/")
        yield made


async def test_a_table(script: Script) -> None:
    done = await script.kalam("sql", "SELECT 1")
    assert done.exit_code == 0
    for part in ("id", "body", 'say "hi", friend', "NULL", "2 rows", "Inserted 1 row(s)"):
        assert part in done.stdout


async def test_json(script: Script) -> None:
    done = await script.kalam("sql", "SELECT 1", "--format", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0] == [{"id": "1", "body": 'say "hi", friend'}, {"id": "2", "body": None}]
    assert lines[1] == DONE


async def test_csv(script: Script) -> None:
    done = await script.kalam("sql", "SELECT 1", "--format", "csv")
    found = list(csv.reader(io.StringIO(done.stdout)))
    assert found == [["id", "body"], ["1", 'say "hi", friend'], ["2", ""]]


async def test_what_is_sent(script: Script) -> None:
    more = ["--params", '[1, "a"]', "--namespace", "chat", "--request-id", "r1"]
    await script.kalam("sql", "-", *more, text="SELECT $1, $2")
    assert script.seen == [
        (
            "sql",
            {
                "sql": "SELECT $1, $2",
                "params": [1, "a"],
                "namespace_id": "chat",
                "request_id": "r1",
            },
        )
    ]


async def test_signing_in(script: Script) -> None:
    who = ["--user", "alice", "--password", "right"]
    done = await script.kalam("sql", "SELECT 1", *who, token=False)
    assert done.exit_code == 0
    assert script.seen[0] == ("login", {"user": "alice", "password": "right"})
    asked = await script.kalam("sql", "SELECT 1", "--user", "alice", token=False, text="right\n")
    assert asked.exit_code == 0
    wrong = await script.kalam("sql", "SELECT 1", *who[:3], "wrong", token=False)
    assert wrong.exit_code == 3
    assert "wrong user or password" in wrong.stderr
    assert wrong.stdout == ""


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "SQL_EXECUTION_ERROR", 1),
        (403, "PERMISSION_DENIED", 1),
        (401, "TOKEN_EXPIRED", 3),
        (429, "RATE_LIMIT_EXCEEDED", 4),
        (503, "NOT_LEADER", 4),
        (504, "OUTCOME_UNKNOWN", 5),
    ],
)
async def test_exit_codes(script: Script, status: int, code: str, exit_code: int) -> None:
    script.status = status
    script.answer = {"status": "error", "error": {"code": code, "message": "that is [why]"}}
    done = await script.kalam("sql", "SELECT 1")
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr == f"{code}: that is [why]\n"


async def test_nobody_there(script: Script) -> None:
    script.url = "http://127.0.0.1:1"
    done = await script.kalam("sql", "SELECT 1")
    assert done.exit_code == 4
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "SELECT 1", "--params", "{}"),
        ("sql", "SELECT 1", "--params", "[1"),
        ("sql", "SELECT 1", "--format", "xml"),
        ("live", "SELECT 1", "--format", "csv"),
        ("sql",),
    ],
)
async def test_wrong_usage(script: Script, arguments: tuple[str, ...]) -> None:
    assert (await script.kalam(*arguments)).exit_code == 2
    assert script.seen == []


async def test_nobody_is_named(script: Script) -> None:
    assert (await script.kalam("sql", "SELECT 1", token=False)).exit_code == 2


async def test_live_rows(script: Script) -> None:
    script.frames = [
        {"type": "subscription_ack", "batch_control": {"has_more": True}},
        {
            "type": "initial_data_batch",
            "rows": [{"id": "1", "body": "a"}],
            "batch_control": {"has_more": True, "last_seq_id": "7"},
        },
        {"type": "initial_data_batch", "rows": [], "batch_control": {"has_more": False}},
        {"type": "change", "change_type": "insert", "rows": [{"id": "2"}], "pressed": True},
        {"type": "change", "change_type": "update", "rows": [{"id": "2", "body": None}]},
        {"type": "change", "change_type": "delete", "old_values": [{"id": "1"}]},
    ]
    script.frames[0].pop("batch_control")
    done = await script.kalam("live", "SELECT * FROM chat.m", "--last-rows", "5")
    assert done.stdout.splitlines() == [
        "+ id=1  body=a",
        "+ id=2",
        "~ id=2  body=NULL",
        "- id=1",
    ]
    assert done.exit_code == 4
    assert "closed the connection" in done.stderr
    assert script.seen[0][1]["subscription"]["options"] == {"last_rows": 5}
    assert script.seen[1] == (
        "next",
        {"type": "next_batch", "subscription_id": "terminal", "last_seq_id": "7"},
    )


async def test_a_refused_live_query(script: Script) -> None:
    script.frames = [{"type": "error", "code": "UNSUPPORTED", "message": "no joins"}]
    done = await script.kalam("live", "SELECT 1", "--from-seq", "9", "--format", "json")
    assert (done.exit_code, done.stderr) == (1, "UNSUPPORTED: no joins\n")
    assert script.seen[0][1]["subscription"]["options"] == {"from_seq_id": "9"}
