"""PostgreSQL behind aiohttp and asyncpg: the stack one builds by hand for rows with live updates.

Owns a private cluster (initdb in the stack's directory, Unix socket only) with fsync and
synchronous_commit on, and the application in `postgres_app.py`. Run as root it gives the cluster to
the system user `postgres`, since the server refuses to run as root.

An insert notifies with the row as payload in the same statement. PostgreSQL commits notifying
transactions one after another, which halves the inserts; `PostgresPlainStack` leaves the
notification out and shows what the same stack does without live updates.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt

from benchmarks.load import ID_MARK, ROOT
from benchmarks.stacks.calls import answers, request_template
from benchmarks.stacks.stack import (
    AUTHOR,
    BODY,
    LIVE_BODY,
    SCORE,
    TENANT,
    LiveProtocol,
    Requests,
    Stack,
    StackError,
    free_port,
)

_SECRET = "benchmark-secret-of-at-least-32-bytes"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "40",
    "autovacuum": "on",
    "jit": "off",
}
_SCHEMA = """
CREATE TABLE messages (
    tenant text NOT NULL, id bigint NOT NULL, author text, body text, score double precision,
    PRIMARY KEY (tenant, id)
);
"""


class PostgresStack(Stack):
    """PostgreSQL 15 + aiohttp + asyncpg."""

    name = "postgres"
    title = "PostgreSQL + aiohttp/asyncpg"
    durability = "fsync each commit; notifying commits go one by one"
    notify = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.binaries = find_binaries()
        self.data = directory / "cluster"
        self.sockets = directory / "sockets"
        self.port = free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        role = self.user or "postgres"
        self.dsn = f"postgresql://{role}@/postgres?host={self.sockets}"

    def prepare(self) -> None:
        for folder in (self.data, self.sockets):
            folder.mkdir()
            if self.user:
                shutil.chown(folder, self.user, self.user)
        done = subprocess.run(
            [self.binaries / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"],
            user=self.user, group=self.user, extra_groups=[] if self.user else None,
            capture_output=True, text=True, cwd=self.data, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StackError(f"initdb failed: {done.stderr}")

    def launch(self) -> None:
        settings = {**_SETTINGS, "unix_socket_directories": str(self.sockets)}
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        self.processes.spawn(
            command, log=self.directory / "postgres.log", user=self.user, cwd=self.data
        )
        app = [sys.executable, "-m", "benchmarks.stacks.postgres_app", "--dsn", self.dsn]
        app += ["--port", str(self.port), "--secret", _SECRET]
        app += ["--notify"] if self.notify else []
        self.processes.spawn(app, log=self.directory / "app.log", cwd=ROOT)

    def ready(self) -> bool:
        return answers(self.port, "/health")

    def database_ready(self) -> bool:
        """Whether PostgreSQL itself, without the application, answers a query."""
        return self._psql("SELECT 1").returncode == 0

    def setup(self) -> None:
        done = self._psql(_SCHEMA)
        if done.returncode:
            raise StackError(f"schema failed: {done.stderr}")

    def requests(self) -> Requests:
        headers = {"Authorization": f"Bearer {self._token()}"}
        return Requests(
            port=self.port,
            insert=request_template("POST", "/messages", _row(BODY), headers=headers),
            insert_live=request_template("POST", "/messages", _row(LIVE_BODY), headers=headers),
            insert_expect=('{"inserted":1}',),
            insert_status=200,
            read=request_template("GET", f"/messages/{ID_MARK}", headers=headers),
            read_expect=(f'"id":{ID_MARK}', f'"{AUTHOR}"', f'"{BODY}"', SCORE),
        )

    def live(self) -> LiveProtocol:
        return LiveProtocol(
            kind="websocket",
            port=self.port,
            path="/live",
            headers={"Authorization": f"Bearer {self._token()}"},
            steps=(("", '"ready"'),),
        )

    def stop(self) -> None:
        # The application first (started last), then a shutdown that does not wait for clients.
        self.processes.stop(signal.SIGINT)

    def _psql(self, sql: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.sockets,
             "-U", "postgres", "-c", sql, "postgres"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @staticmethod
    def _token() -> str:
        claims = {"sub": TENANT, "exp": datetime.now(UTC) + timedelta(days=1)}
        return jwt.encode(claims, _SECRET, algorithm="HS256")


class PostgresPlainStack(PostgresStack):
    """The same without live updates and without RESET: the upper bound of the hand-built stack."""

    name = "postgres-plain"
    title = "same, tuned: no NOTIFY (not live), no RESET"
    durability = "fsync each commit (grouped by the server)"
    notify = False
    reads_differ = True


def find_binaries() -> Path:
    """The newest PostgreSQL server installation. Raises StackError when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    raise StackError("no PostgreSQL server found: apt-get install postgresql-15")


def _version(server: Path) -> float:
    name = server.parent.parent.name
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


def _row(body: str) -> str:
    return f'{{"id":{ID_MARK},"author":"{AUTHOR}","body":"{body}","score":{SCORE}}}'
