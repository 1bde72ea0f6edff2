"""`kalam cluster …` against a scripted server: what is sent, what is shown, exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console
from typer.testing import CliRunner, Result

from kalamdb.cli.cluster import MOVES, STATES, Settled, shown_until
from kalamdb.cli.connection import Refused
from kalamdb.cli.main import app

COMMANDS: list[tuple[str, str]] = [
    ("list", "CLUSTER LIST"),
    ("status", "CLUSTER STATUS"),
    ("join 4 node4:9189", "CLUSTER JOIN 4 'node4:9189'"),
    ("join 4 no'de:9189", "CLUSTER JOIN 4 'no''de:9189'"),
    ("leave 3", "CLUSTER LEAVE 3"),
    ("remove 3", "CLUSTER REMOVE 3"),
    ("replication 5", "CLUSTER REPLICATION 5"),
    ("transfer-leader 2 3", "CLUSTER TRANSFER LEADER GROUP 2 TO 3"),
    ("transfer-leader all 3", "CLUSTER TRANSFER LEADER NODE 3"),
    ("stepdown", "CLUSTER STEPDOWN"),
    ("stepdown 2", "CLUSTER STEPDOWN NODE 2"),
    ("stepdown --group 2", "CLUSTER STEPDOWN GROUP 2"),
    ("rebalance", "CLUSTER REBALANCE"),
    ("rebalance --leaders", "CLUSTER REBALANCE LEADERS"),
    ("move 77 2", "CLUSTER MOVE SLOT 77 TO GROUP 2"),
    ("move o'neill 2", "CLUSTER MOVE USER 'o''neill' TO GROUP 2"),
    ("snapshot", "CLUSTER SNAPSHOT"),
    ("snapshot 2", "CLUSTER SNAPSHOT GROUP 2"),
]


def table(names: Sequence[str], *rows: Sequence[Any]) -> dict[str, Any]:
    return {
        "schema": [{"name": name} for name in names],
        "rows": [list(row) for row in rows],
        "row_count": len(rows),
    }


MOVE_COLUMNS = (
    "kind",
    "group_id",
    "slot",
    "source",
    "target",
    "state",
    "keys_done",
    "keys_total",
    "bytes_done",
    "bytes_total",
    "eta_seconds",
)
NOTHING = table(MOVE_COLUMNS)


def member(done: int, eta_s: float | None = 12.0) -> Sequence[Any]:
    return ("member", "2", None, "1", "4", "image", str(done), "100", "0", "0", eta_s)


@dataclass
class Served:
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, Any])
    seen: list[str] = field(default_factory=list[str])
    url: str = ""

    async def sql(self, request: web.Request) -> web.Response:
        text = (await request.json())["sql"]
        self.seen.append(text)
        told = self.answers.get(text, [{"row_count": 0, "message": "done"}])
        answer = told.pop(0) if len(told) > 1 else told[0]
        return web.json_response({"results": [answer]})

    async def kalam(self, *arguments: str) -> Result:
        command = ["cluster", *arguments, "--url", self.url, "--token", "t"]
        return await asyncio.to_thread(CliRunner().invoke, app, command)


@pytest.fixture
async def served() -> AsyncGenerator[Served]:
    made = Served()
    application = web.Application()
    application.router.add_post("/v1/api/sql", made.sql)
    async with TestServer(application) as running:
        made.url = str(running.make_url("/")).rstrip("/")
        yield made


@pytest.mark.parametrize(("command", "sql"), COMMANDS)
async def test_what_is_sent(served: Served, command: str, sql: str) -> None:
    done = await served.kalam(*command.split())
    assert done.exit_code == 0, done.output
    assert served.seen == [sql]


async def test_a_group_that_could_not_fails_the_command(served: Served) -> None:
    served.answers["CLUSTER STEPDOWN"] = [
        table(("action", "success", "error"), ("stepdown", True, None), ("stepdown", False, "no"))
    ]
    done = await served.kalam("stepdown")
    assert done.exit_code == 4
    assert "1 group could not" in done.stderr
    assert "stepdown" in done.stdout


@pytest.mark.parametrize("command", ["transfer-leader two 3", "stepdown 1 --group 2", "join 4"])
async def test_wrong_usage(served: Served, command: str) -> None:
    assert (await served.kalam(*command.split())).exit_code == 2
    assert not served.seen


async def test_waiting_for_a_node_to_leave(served: Served) -> None:
    state = ("node_id", "status", "members")
    served.answers[MOVES] = [table(MOVE_COLUMNS, member(50)), NOTHING]
    served.answers[STATES] = [
        table(state, ("1", "draining", 3)),
        table(state, ("1", "draining", 0)),
    ]
    done = await served.kalam("leave", "1", "--wait")
    assert done.exit_code == 0, done.output
    assert served.seen.count(MOVES) == 4  # one with a move, then quiet ones


class Clock:
    """Counts the pauses."""

    def __init__(self) -> None:
        self.paused = 0

    async def pause(self, seconds: float) -> None:
        self.paused += 1
        assert self.paused < 50


async def test_bars() -> None:
    told: list[dict[str, Any] | Refused] = [
        table(MOVE_COLUMNS, member(0, None)),
        Refused("CLUSTER_UNAVAILABLE: wait", 4),
        table(MOVE_COLUMNS, member(50)),
        table(MOVE_COLUMNS, ("slot", "2", 7, "1", "2", "copying", "0", "0", "25", "100", 300.0)),
        NOTHING,
    ]

    async def ask(sql: str, *_: Any) -> list[dict[str, Any]]:
        answer = told.pop(0) if len(told) > 1 else told[0]
        if isinstance(answer, Refused):
            raise answer
        return [answer]

    out, clock = StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=100)
    await shown_until(ask, Settled(), console, clock.pause)
    shown = out.getvalue()
    for part in ("group 2 to node 4", "slot 7 to group 2", "100%", "done"):
        assert part in shown
    assert clock.paused == 6


async def test_a_refusal_ends_the_watching() -> None:
    async def ask(sql: str, *_: Any) -> list[dict[str, Any]]:
        raise Refused("PERMISSION_DENIED: no", 1)

    with pytest.raises(Refused):
        await shown_until(ask, Settled(), Console(file=StringIO()), Clock().pause)
