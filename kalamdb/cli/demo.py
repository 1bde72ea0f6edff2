"""`kalam demo`: a node of its own, real conversations, a live query that fills while they load.

1. Start `kalamdb-server` on free ports with a temporary data directory.
2. Create `chat.messages` and `agent.tool_calls` (USER) and `agent.events` (STREAM).
3. Load each dialogue as its user: a service account writes through EXECUTE AS, over HTTP.
4. Meanwhile one tenant, signed in as itself, watches its own messages over a WebSocket.
5. Ask for an aggregate over that tenant, and show that it sees no other's rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kalamdb.cli.conversations import Conversation, NotDialogues, generated, load
from kalamdb.lib.clock import SystemIds

START_TIMEOUT_S = 30.0
IN_FLIGHT = 16
SHOWN_ROWS = 12

SETUP = (
    "CREATE NAMESPACE IF NOT EXISTS chat",
    "CREATE NAMESPACE IF NOT EXISTS agent",
    """CREATE USER TABLE chat.messages (
        id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), thread_id TEXT NOT NULL, turn INT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')), body TEXT NOT NULL,
        created_at TIMESTAMP DEFAULT NOW())""",
    """CREATE USER TABLE agent.tool_calls (
        id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), thread_id TEXT NOT NULL, turn INT NOT NULL,
        method TEXT NOT NULL, parameters JSON, results JSON, created_at TIMESTAMP DEFAULT NOW())""",
    """CREATE STREAM TABLE agent.events (
        id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), thread_id TEXT NOT NULL, kind TEXT NOT NULL)
        WITH (TTL_SECONDS = 60)""",
)
MESSAGE = ("thread_id", "turn", "role", "body")
CALL = ("thread_id", "turn", "method", "parameters", "results")
LIVE_SQL = "SELECT turn, role, body FROM chat.messages"
AGGREGATE_SQL = (
    "SELECT role, count(*) AS messages, round(avg(length(body)), 1) AS mean_length, "
    "max(turn) AS last_turn FROM chat.messages GROUP BY role ORDER BY role"
)


class DemoFailed(RuntimeError):
    """Something in the demo did not go as it must; the message is for the person watching."""


@dataclass(slots=True)
class _View:
    """What the terminal shows."""

    progress: Progress
    tenant: str
    received: deque[tuple[str, str, str]] = field(
        default_factory=lambda: deque[tuple[str, str, str]](maxlen=SHOWN_ROWS)
    )
    count: int = 0

    def __rich__(self) -> Group:
        table = Table(expand=True, show_edge=False)
        table.add_column("turn", justify="right", width=5)
        table.add_column("role", width=10)
        table.add_column("body", no_wrap=True, overflow="ellipsis")
        for row in self.received:
            table.add_row(*row)
        title = f"live: {LIVE_SQL}   as {self.tenant}   {self.count} rows"
        return Group(self.progress, Panel(table, title=title, title_align="left"))


def demo(
    sgd: Annotated[
        list[Path] | None,
        typer.Argument(help="Schema-Guided-Dialogue JSON files or folders; none: a generated set"),
    ] = None,
) -> None:
    """Start a node, load conversations, watch one tenant's rows arrive."""
    console = Console()
    try:
        conversations = load(sgd) if sgd else generated()
        if len(conversations) < 2:
            raise DemoFailed("the demo needs at least two conversations")
        asyncio.run(_demo(console, conversations))
    except (DemoFailed, NotDialogues, OSError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error


async def _demo(console: Console, conversations: list[Conversation]) -> None:
    password = SystemIds().token(18).hex()
    with tempfile.TemporaryDirectory(prefix="kalamdb-demo-") as folder:
        async with _node(Path(folder), password) as url, aiohttp.ClientSession(url) as http:
            console.print(f"node at {url}, data in {folder}")
            root = await _login(http, "root", password)
            for statement in SETUP:
                await _sql(http, root, statement)
            watched = conversations[len(conversations) // 2]
            for name, role in ((watched.user, "user"), ("loader", "service")):
                made = f"CREATE USER '{name}' WITH PASSWORD '{password}' ROLE {role}"
                await _sql(http, root, made)
            tenant = await _login(http, watched.user, password)
            loader = await _login(http, "loader", password)
            await _load_and_watch(console, http, conversations, watched, (loader, tenant))
            await _report(console, http, tenant, watched)


@contextlib.asynccontextmanager
async def _node(folder: Path, password: str) -> AsyncGenerator[str]:
    """A server process of our own, ready to answer; stopped at the end."""
    http_port, rpc_port = _free_port(), _free_port()
    program = Path(sys.executable).with_name("kalamdb-server")
    log = folder / "server.log"
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            str(program),
            "--data",
            str(folder / "data"),
            "--http",
            f"127.0.0.1:{http_port}",
            "--rpc",
            f"127.0.0.1:{rpc_port}",
            env={**os.environ, "KALAMDB_ROOT_PASSWORD": password},
            stdout=sink,
            stderr=sink,
        )
    url = f"http://127.0.0.1:{http_port}"
    try:
        await _wait_healthy(url, process, log)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _wait_healthy(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with aiohttp.ClientSession() as http:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(f"{url}/health") as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(0.05)
    raise DemoFailed(f"the node did not start:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text()[-2000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def _login(http: aiohttp.ClientSession, user: str, password: str) -> str:
    async with http.post(
        "/v1/api/auth/login", json={"user": user, "password": password}
    ) as response:
        body = await response.json()
        if response.status != 200:
            raise DemoFailed(f"sign-in of {user} failed: {body}")
        return body["access_token"]


async def _sql(
    http: aiohttp.ClientSession, token: str, sql: str, params: list[Any] | None = None
) -> list[dict[str, Any]]:
    async with http.post(
        "/v1/api/sql",
        json={"sql": sql} if params is None else {"sql": sql, "params": params},
        headers={"Authorization": f"Bearer {token}"},
    ) as response:
        body = await response.json()
        if response.status != 200:
            raise DemoFailed(f"{sql[:80]}: {body['error']['message']}")
        return body["results"]


# ---- load and watch -----------------------------------------------------------------------------


async def _load_and_watch(
    console: Console,
    http: aiohttp.ClientSession,
    conversations: list[Conversation],
    watched: Conversation,
    tokens: tuple[str, str],
) -> None:
    loader, tenant = tokens
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        expand=True,
    )
    total = sum(len(each.turns) + len(each.calls) + 1 for each in conversations)
    task = progress.add_task(f"loading {len(conversations)} conversations", total=total)
    view = _View(progress, watched.user)
    others = [each for each in conversations if each is not watched]
    ready = asyncio.Event()
    with Live(view, console=console, refresh_per_second=12):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_watch(http, tenant, view, len(watched.turns), ready))
            await ready.wait()
            # The watched conversation is spread over the load, so that its rows arrive meanwhile.
            parts = _spread(others, len(watched.turns))
            for turn, part in zip(watched.turns, parts, strict=True):
                await _load(http, loader, part, progress, task)
                values = [watched.thread, turn.number, turn.role, turn.body]
                await _insert(
                    http, loader, watched.user, "chat.messages", columns=MESSAGE, rows=[values]
                )
                progress.advance(task)
            await _load_calls(http, loader, watched)
            progress.update(task, completed=total)


def _spread(items: list[Conversation], parts: int) -> list[list[Conversation]]:
    return [items[len(items) * n // parts : len(items) * (n + 1) // parts] for n in range(parts)]


async def _load(
    http: aiohttp.ClientSession,
    token: str,
    conversations: list[Conversation],
    progress: Progress,
    task: Any,
) -> None:
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(conversation: Conversation) -> None:
        async with gate:
            rows = [[conversation.thread, t.number, t.role, t.body] for t in conversation.turns]
            await _insert(
                http, token, conversation.user, "chat.messages", columns=MESSAGE, rows=rows
            )
            await _load_calls(http, token, conversation)
            progress.advance(task, len(rows) + len(conversation.calls) + 1)

    async with asyncio.TaskGroup() as tasks:
        for conversation in conversations:
            tasks.create_task(one(conversation))


async def _load_calls(http: aiohttp.ClientSession, token: str, conversation: Conversation) -> None:
    thread, user = conversation.thread, conversation.user
    if conversation.calls:
        rows = [[thread, c.turn, c.method, c.parameters, c.results] for c in conversation.calls]
        await _insert(http, token, user, "agent.tool_calls", columns=CALL, rows=rows)
    events = ("thread_id", "kind")
    rows = [[thread, "conversation_loaded"]]
    await _insert(http, token, user, "agent.events", columns=events, rows=rows)


async def _insert(
    http: aiohttp.ClientSession,
    token: str,
    user: str,
    table: str,
    *,
    columns: tuple[str, ...],
    rows: list[list[Any]],
) -> None:
    width = len(columns)
    marks = ", ".join(
        "(" + ", ".join(f"${row * width + column + 1}" for column in range(width)) + ")"
        for row in range(len(rows))
    )
    sql = f"EXECUTE AS '{user}' (INSERT INTO {table} ({', '.join(columns)}) VALUES {marks})"
    await _sql(http, token, sql, [value for row in rows for value in row])


async def _watch(
    http: aiohttp.ClientSession, token: str, view: _View, expected: int, ready: asyncio.Event
) -> None:
    """The tenant's live query; ends when all of its rows have come."""
    async with http.ws_connect("/v1/ws") as ws:
        await ws.send_json(
            {
                "type": "authenticate",
                "method": "jwt",
                "token": token,
                "protocol": {"serialization": "json", "compression": "none"},
            }
        )
        await ws.send_json(
            {"type": "subscribe", "subscription": {"id": "demo", "sql": LIVE_SQL, "options": {}}}
        )
        async for message in ws:
            frame = message.json()
            match frame["type"]:
                case "initial_data_batch" | "change":
                    for row in frame.get("rows", ()):
                        view.received.append((str(row["turn"]), row["role"], row["body"]))
                        view.count += 1
                    ready.set()
                case "error" | "auth_error":
                    raise DemoFailed(f"the live query failed: {frame['message']}")
                case _:
                    pass
            if view.count >= expected:
                return
    raise DemoFailed("the live query ended early")


# ---- afterwards ---------------------------------------------------------------------------------


async def _report(
    console: Console, http: aiohttp.ClientSession, tenant: str, watched: Conversation
) -> None:
    result = (await _sql(http, tenant, AGGREGATE_SQL))[0]
    table = Table(title=f"{AGGREGATE_SQL}\nas {watched.user}", title_justify="left")
    for column in result["schema"]:
        table.add_column(column["name"], justify="right")
    for row in result["rows"]:
        table.add_row(*(str(value) for value in row))
    console.print(table)
    calls = (await _sql(http, tenant, "SELECT count(*) FROM agent.tool_calls"))[0]["rows"][0][0]
    if int(calls) != len(watched.calls):
        raise DemoFailed(f"{watched.user} sees {calls} tool calls, expected {len(watched.calls)}")
    console.print(
        f"{watched.user} sees its own {len(watched.turns)} messages and {calls} tool calls, "
        "and no other tenant's"
    )
