"""A `kalamdb-server` process of a test's own, and a client that speaks to it over HTTP."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.waiting import wait_until

ROOT_PASSWORD = "correct-horse-battery-staple"
JWT_SECRET = "a-test-secret-of-more-than-thirty-two-bytes-0123456789"
PROGRAM = Path(sys.executable).with_name("kalamdb-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Answer:
    """Status and body of one request."""

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body

    @property
    def rows(self) -> list[list[Any]]:
        assert self.status == 200, self.body
        return self.body["results"][0]["rows"]

    @property
    def code(self) -> str:
        return self.body["error"]["code"]


class Client:
    """One signed-in user of one server."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self.http = http
        self.url = url
        self.token = token

    async def sql(self, sql: str, params: list[Any] | None = None, **fields: Any) -> Answer:
        body: dict[str, Any] = {"sql": sql, **fields}
        if params is not None:
            body["params"] = params
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        payload = io.BytesIO(json.dumps(body).encode())
        async with self.http.post(
            f"{self.url}/v1/api/sql", data=payload, headers=headers
        ) as response:
            return Answer(response.status, await response.json())

    async def ok(self, sql: str, params: list[Any] | None = None, **fields: Any) -> Answer:
        answer = await self.sql(sql, params, **fields)
        assert answer.status == 200, (sql, answer.body)
        return answer

    def websocket(self) -> Any:
        return self.http.ws_connect(f"{self.url}/v1/ws")


class Server:
    """One node in a process. Ports stay the same over restarts."""

    def __init__(self, data: Path, env: dict[str, str] | None = None) -> None:
        self.data = data
        self.port = free_port()
        self.rpc_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data.with_name(data.name + ".log")
        self._env = {
            **os.environ,
            "KALAMDB_ROOT_PASSWORD": ROOT_PASSWORD,
            "KALAMDB_JWT_SECRET": JWT_SECRET,
            "KALAMDB_RATE_LIMIT_ENABLED": "false",
            **(env or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False

    def command(self) -> list[str]:
        return [
            str(PROGRAM),
            *("--data", str(self.data)),
            *("--http", f"127.0.0.1:{self.port}"),
            *("--rpc", f"127.0.0.1:{self.rpc_port}"),
        ]

    def environment(self) -> dict[str, str]:
        return self._env

    def spawn(self) -> None:
        self.paused = False
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=sink, stderr=sink
            )

    async def start(self, timeout_s: float = 30) -> None:
        self.spawn()
        await self.wait_healthy(timeout_s)

    async def wait_healthy(self, timeout_s: float = 30) -> None:
        await wait_until(self.healthy, what="GET /health is 200", timeout_s=timeout_s)

    def healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def kill(self) -> None:
        """kill -9: no clean-up of any kind."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: the process hangs, its connections stay open; `resume` lets it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def stop(self, timeout_s: float = 15) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    async def login(
        self, http: aiohttp.ClientSession, user: str = "root", password: str = ROOT_PASSWORD
    ) -> Client:
        async with http.post(
            f"{self.url}/v1/api/auth/login", json={"user": user, "password": password}
        ) as response:
            body = await response.json()
            assert response.status == 200, body
            return Client(http, self.url, body["access_token"])

    async def new_user(
        self, http: aiohttp.ClientSession, root: Client, name: str, role: str = "user"
    ) -> Client:
        await root.ok(f"CREATE USER '{name}' WITH PASSWORD '{ROOT_PASSWORD}' ROLE {role}")
        return await self.login(http, name)


@contextlib.asynccontextmanager
async def running(data: Path, env: dict[str, str] | None = None) -> AsyncIterator[Server]:
    server = Server(data, env)
    await server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)
