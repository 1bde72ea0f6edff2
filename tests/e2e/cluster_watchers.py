"""Subscribers that keep account of what they were told, over breaks of whatever they are connected
to.

Keeps: the changes of a watcher are a chain: each names the one before it (`prev_seq`), over every
reconnect too. What does not follow is a fault at once: a gap, a double, a wrong order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import aiohttp

from tests.e2e.cluster_load import SETTLED_S, Load, Town, rows
from tests.e2e.server import Server
from tests.waiting import POLL_S, wait_until

PING_S = 1.0  # a client that says nothing for ten seconds is closed
PROTOCOL = {"serialization": "json", "compression": "none"}


class Watcher:
    """Watches a tenant's log by way of `edges`: one as long as it lives, then the next, from where
    it was.
    """

    sql = "SELECT n, body FROM app.log"
    columns = ("n", "body")
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, town: Town, tenant: str, edges: Sequence[Server]) -> None:
        self._town = town
        self.tenant = tenant
        self._edges = itertools.cycle(edges)
        self._chain: str | None = None  # seq of the last change or row of the table
        self._cursor: str | None = None  # where to go on
        self.seen: Counter[Any] = Counter()
        self.connected = asyncio.Event()
        self.breaks: list[str] = []  # why connections ended
        self.faults: list[str] = []

    def __str__(self) -> str:
        return f"watcher of {self.tenant}"

    def of_row(self, row: dict[str, Any]) -> Any:
        """What rows are told apart by."""
        return row["n"]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._watch(self._town.at(next(self._edges), self.tenant).url)
            except (aiohttp.ClientError, ConnectionError) as error:
                self.breaks.append(f"{self}: {error!r}")
            self.connected.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.connected.wait(), POLL_S)

    async def _watch(self, url: str) -> None:
        town = self._town
        async with town.http.ws_connect(f"{url}/v1/ws", timeout=_QUICK) as ws:
            token = town.token(self.tenant)
            await ws.send_json(
                {"type": "authenticate", "method": "jwt", "token": token, "protocol": PROTOCOL}
            )
            wish = {"id": "w", "sql": self.sql, "options": dict(self.options)}
            if self._cursor is not None:
                wish["options"]["from"] = self._cursor
            await ws.send_json({"type": "subscribe", "subscription": wish})
            said_s = time.monotonic()
            while True:
                if time.monotonic() - said_s > PING_S:
                    said_s = time.monotonic()
                    await ws.send_json({"type": "ping"})
                try:
                    message = await ws.receive(PING_S)
                except TimeoutError:
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                answer = self.heard(message.json())
                if answer is not None:
                    await ws.send_json(answer)
            self.breaks.append(f"{self} at {url}: closed with {ws.close_code}")

    def heard(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """One frame; what is to be said to it, if anything."""
        match frame["type"]:
            case "initial_data_batch":
                for row in frame["rows"]:
                    self._told(row, row["_seq"])
                control = frame["batch_control"]
                if control["has_more"]:
                    last = control["last_seq_id"]
                    return {"type": "next_batch", "subscription_id": "w", "last_seq_id": last}
                self._cursor = frame["seq"]
                self._chain = self._chain or "0"
                self.connected.set()
            case "change":
                if frame["prev_seq"] != self._chain:
                    self.faults.append(
                        f"{self}: {frame['prev_seq']} is before {frame['seq']}, not {self._chain}"
                    )
                for row in frame["rows"]:
                    self._told(row, frame["seq"])
                self._cursor = frame["seq"]
                self.connected.set()
            case "position":
                self._cursor = frame["seq"]
            case "error" | "auth_error":
                self.faults.append(f"{self}: {frame}")
            case "subscription_ack":
                if frame.get("reset") and self._cursor is None:  # its rows are begun anew
                    self._chain = None
                    self.seen.clear()
                elif frame.get("reset"):
                    self.faults.append(f"{self}: {frame}")
                if self._cursor is not None:
                    self.connected.set()
            case _:
                pass
        return None

    def _told(self, row: dict[str, Any], seq: str) -> None:
        number = self.of_row(row)
        self.seen[number] += 1
        if self.seen[number] > 1:
            self.faults.append(f"{self}: {number} came twice")
        if self._chain is not None and int(seq) <= int(self._chain):
            self.faults.append(f"{self}: {seq} came after {self._chain}")
        self._chain = seq


class ResultWatcher(Watcher):
    """Watches how many rows each tenant has: a result of all groups, evaluated anew."""

    sql = "SELECT _user_id, count(*) AS c FROM all_users.app.log GROUP BY _user_id"
    columns = ("_user_id", "c")
    options: ClassVar[dict[str, Any]] = {"on_expired": "snapshot"}

    def __init__(self, town: Town, tenant: str, edges: Sequence[Server]) -> None:
        super().__init__(town, tenant, edges)
        self._unit: list[dict[str, Any]] = []  # what is not whole has no cursor

    def of_row(self, row: dict[str, Any]) -> Any:
        return row["_user_id"], row["c"]

    def heard(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """A unit is applied when it is whole; a count that is not there cannot go."""
        match frame["type"]:
            case "subscription_ack":
                self._unit.clear()
                if frame.get("reset"):
                    self.seen.clear()
                if frame.get("seq"):
                    self._cursor = frame["seq"]
                    self.connected.set()
            case "initial_data_batch":
                self.seen.update(map(self.of_row, frame["rows"]))
                self._cursor = frame["seq"]
                self.connected.set()
            case "change":
                self._unit.append(frame)
                if frame.get("commit"):
                    self._apply()
                    self._cursor = frame["seq"]
                    self.connected.set()
            case _:
                return super().heard(frame)
        return None

    def _apply(self) -> None:
        for change in self._unit:
            for row in change.get("old_values") or ():
                self._gone(row)
            for row in change["rows"] if change["change_type"] != "delete" else ():
                self.seen[self.of_row(row)] += 1
        self._unit.clear()

    def _gone(self, row: dict[str, Any]) -> None:
        told = row["_user_id"]
        (before,) = [found for found in self.seen if found[0] == told] or [None]
        if before is None or ("c" in row and before != self.of_row(row)):
            self.faults.append(f"{self}: {row} goes and was not there: {self.seen}")
        else:
            del self.seen[before]


_QUICK = aiohttp.ClientWSTimeout(ws_close=1.0)  # pyright: ignore[reportCallIssue]


@contextlib.asynccontextmanager
async def watching(watchers: Sequence[Watcher]) -> AsyncIterator[None]:
    """All of them connected, for the length of the block."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(watcher.run()) for watcher in watchers]
        await wait_connected(watchers)
        yield
        for task in running:
            task.cancel()


async def wait_connected(watchers: Sequence[Watcher]) -> None:
    def connected() -> bool:
        faults = [fault for watcher in watchers for fault in watcher.faults]
        assert not faults, faults[:5]
        return all(watcher.connected.is_set() for watcher in watchers)

    await wait_until(connected, what="all watchers are connected", timeout_s=SETTLED_S)


async def check_watchers(load: Load, watchers: Sequence[Watcher]) -> None:
    """Each was told every row of its tenant, once. Nobody writes any more."""
    for watcher in watchers:
        client = load.town.at(load.town.cluster.front, watcher.tenant)
        there = Counter(
            watcher.of_row(dict(zip(watcher.columns, row, strict=True)))
            for row in await rows(client, watcher.sql)
        )

        def complete(watcher: Watcher = watcher, there: Counter[Any] = there) -> bool:
            assert not watcher.faults, watcher.faults[:5]
            return watcher.seen == there

        await wait_until(complete, what=f"{watcher} has everything", timeout_s=SETTLED_S)
