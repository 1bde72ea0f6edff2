"""One KalamDB node, started as a user starts it: `kalamdb-server` with a data directory and two
ports.

The table is a USER table (each tenant sees its own rows) and the requests are those of a tenant
with role `user`; root only creates namespace, table and user. Rate limits are off, as for the other
stacks, which have none.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import orjson

from benchmarks.load import ID_MARK
from benchmarks.stacks.calls import answers, call, request_template
from benchmarks.stacks.stack import (
    AUTHOR,
    BODY,
    LIVE_BODY,
    PASSWORD,
    SCORE,
    TENANT,
    LiveProtocol,
    Requests,
    Stack,
    StackError,
    free_port,
)

_INSERT = "INSERT INTO bench.messages (id, author, body, score) VALUES ($1, $2, $3, $4)"
_READ = "SELECT id, author, body, score FROM bench.messages WHERE id = $1"
_ROOT_PASSWORD = "bench-Root-battery-staple-9"
_JWT_SECRET = "benchmark-only-secret-kJ83hsLq02nVx7Tz5bWm"
_SETUP = (
    "CREATE NAMESPACE bench",
    "CREATE USER TABLE bench.messages"
    " (id BIGINT PRIMARY KEY, author TEXT, body TEXT, score DOUBLE)",
    f"CREATE USER {TENANT} WITH PASSWORD '{PASSWORD}' ROLE user",
)


class KalamStack(Stack):
    """A cluster of one KalamDB member."""

    name = "kalamdb"
    title = "KalamDB"
    durability = "fdatasync each commit (grouped by the log)"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = find_server()
        self.http_port = free_port()
        self.rpc_port = free_port()
        self.token = ""

    def prepare(self) -> None:
        (self.directory / "data").mkdir()

    def launch(self) -> None:
        command = [str(self.server), "--data", str(self.directory / "data")]
        command += ["--http", f"127.0.0.1:{self.http_port}", "--rpc", f"127.0.0.1:{self.rpc_port}"]
        environment = {
            "KALAMDB_ROOT_PASSWORD": _ROOT_PASSWORD,
            "KALAMDB_JWT_SECRET": _JWT_SECRET,
            "KALAMDB_RATE_LIMIT_ENABLED": "false",
        }
        self.processes.spawn(command, log=self.directory / "server.log", environment=environment)

    def ready(self) -> bool:
        return answers(self.http_port, "/health")

    def setup(self) -> None:
        root = self._login("root", _ROOT_PASSWORD)
        for statement in _SETUP:
            call(self.http_port, "/v1/api/sql", {"sql": statement}, token=root)
        self.token = self._login(TENANT, PASSWORD)

    def requests(self) -> Requests:
        headers = {"Authorization": f"Bearer {self.token}"}
        path = "/v1/api/sql"
        read = _statement(_READ, f"[{ID_MARK}]")
        return Requests(
            port=self.http_port,
            insert=request_template("POST", path, _insert(BODY), headers=headers),
            insert_live=request_template("POST", path, _insert(LIVE_BODY), headers=headers),
            insert_expect=('"row_count":1',),
            insert_status=200,
            read=request_template("POST", path, read, headers=headers),
            read_expect=(f'"{ID_MARK}"', f'"{AUTHOR}"', f'"{BODY}"', SCORE),
        )

    def live(self) -> LiveProtocol:
        authenticate = {
            "type": "authenticate",
            "method": "jwt",
            "token": self.token,
            "protocol": {"serialization": "json", "compression": "none"},
        }
        subscribe = {
            "type": "subscribe",
            "subscription": {
                "id": "live",
                "sql": "SELECT * FROM bench.messages",
                "options": {"last_rows": 0},
            },
        }
        return LiveProtocol(
            kind="websocket",
            port=self.http_port,
            path="/v1/ws",
            headers={},
            steps=(
                (orjson.dumps(authenticate).decode(), '"auth_success"'),
                (orjson.dumps(subscribe).decode(), '"subscription_ack"'),
                ("", '"initial_data_batch"'),
            ),
            keepalive='{"type":"ping"}',
        )

    def root_token(self) -> str:
        return self._login("root", _ROOT_PASSWORD)

    def _login(self, user: str, password: str) -> str:
        body = {"user": user, "password": password}
        return call(self.http_port, "/v1/api/auth/login", body).text_of("access_token")


def find_server() -> Path:
    """The server program: $KALAMDB_SERVER, beside this interpreter, or in the project's `.venv`."""
    named = os.environ.get("KALAMDB_SERVER")
    root = Path(__file__).resolve().parents[2]
    candidates = [
        *([Path(named)] if named else []),
        Path(sys.executable).parent / "kalamdb-server",
        root / ".venv" / "bin" / "kalamdb-server",
    ]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    on_path = shutil.which("kalamdb-server")
    if on_path:
        return Path(on_path)
    raise StackError("no kalamdb-server found: run `make install` or set KALAMDB_SERVER")


def _statement(sql: str, parameters: str) -> str:
    return f'{{"sql":"{sql}","params":{parameters}}}'


def _insert(body: str) -> str:
    return _statement(_INSERT, f'[{ID_MARK},"{AUTHOR}","{body}",{SCORE}]')
