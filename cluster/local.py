"""A whole cluster on this machine, to look at: `make cluster`, or `python -m cluster.local`.

Starts nodes and a router as processes of their own, prints where they listen, then tells whenever a
group has another leader. Ctrl-C stops all. Data and logs stay in the directory; started again it is
the same cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kalamdb.lib.clock import SystemIds
from kalamdb.lib.tasks import every

LOOK_S = 0.5
HEALTHY_S = 60.0
STOP_S = 20.0
HOST = "127.0.0.1"
SECRET_FILE = "cluster.secret"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run."""

    data: Path
    nodes: int
    http_port: int  # of the router; nodes follow it
    rpc_port: int  # of the first node

    @property
    def peers(self) -> str:
        return ",".join(
            f"{node}={HOST}:{self.rpc_port + node - 1}" for node in range(1, self.nodes + 1)
        )

    def node_url(self, node: int) -> str:
        return f"http://{HOST}:{self.http_port + node}"

    @property
    def router_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"


@dataclass(slots=True)
class Running:
    name: str
    url: str
    log: Path
    process: asyncio.subprocess.Process


class Failed(Exception):
    """Something did not start; the text says what to look at."""


class LocalCluster:
    """The processes, and what was last told of them."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._running: list[Running] = []
        self._leaders: dict[int, int | None] = {}
        self._ended: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises Failed."""
        plan = self._plan
        plan.data.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "KALAMDB_CLUSTER_SECRET": _kept_secret(plan.data / SECRET_FILE)}
        try:
            for node in range(1, plan.nodes + 1):
                await self._start_node(node, env)
            router = ["--http", f"{HOST}:{plan.http_port}", "--peers", plan.peers]
            await self._start("router", "kalamdb-router", router, plan.router_url, env)
            await self._until_healthy(stop)
            if not stop.is_set():
                self._tell_addresses()
                await self._watch(stop)
        finally:
            await self._stop()

    async def _start_node(self, node: int, env: Mapping[str, str]) -> None:
        plan = self._plan
        home = plan.data / f"node-{node}"
        arguments = ["--node-id", str(node), "--peers", plan.peers, "--data", str(home)]
        arguments += ["--http", plan.node_url(node).removeprefix("http://")]
        arguments += ["--rpc", f"{HOST}:{plan.rpc_port + node - 1}"]
        await self._start(f"node {node}", "kalamdb-server", arguments, plan.node_url(node), env)

    async def _start(
        self, name: str, program: str, arguments: list[str], url: str, env: Mapping[str, str]
    ) -> None:
        path = self._plan.data / f"{name.replace(' ', '-')}.log"
        with path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name(program)),
                *arguments,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        self._running.append(Running(name, url, path, process))

    async def _until_healthy(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + HEALTHY_S
        with self._console.status("starting the nodes and the router"):
            for one in self._running:
                while not stop.is_set() and await _read(f"{one.url}/health") is None:
                    if one.process.returncode is not None:
                        raise Failed(f"{one.name} ended with {one.process.returncode}: {one.log}")
                    if loop.time() > until_s:
                        raise Failed(f"{one.name} is not healthy: see {one.log}")
                    await _waited(stop, LOOK_S / 5)

    def _tell_addresses(self) -> None:
        console = self._console
        for one in reversed(self._running):
            console.print(f"[bold]{one.name:8}[/] {one.url}   [dim]{one.log}[/]")
        password = self._made_up_password()
        if password:
            console.print(f"[bold]root password[/] {password}   [dim](said once)[/]")
        console.print("who leads which group, as it changes; Ctrl-C stops all\n")

    def _made_up_password(self) -> str | None:
        for one in self._running:
            for line in one.log.read_text(errors="replace").splitlines():
                if line.startswith("root password: "):
                    return line.removeprefix("root password: ")
        return None

    async def _watch(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(every(LOOK_S, self._look, name="leaders"))
            await stop.wait()
            looking.cancel()

    async def _look(self) -> None:
        known: dict[int, tuple[int, int | None]] = {}  # group → term, leader
        for one in self._running:
            if one.process.returncode is not None:
                self._tell_ended(one)
                continue
            told = await _read(f"{one.url}/debug/raft")
            for group in (told or {}).get("groups", ()):
                seen = known.get(group["group"], (0, None))
                if group["term"] >= seen[0] and group["leader"] is not None:
                    known[group["group"]] = group["term"], group["leader"]
        leaders = {group: leader for group, (_, leader) in known.items()}
        if leaders and leaders != self._leaders:
            self._leaders = dict(leaders)
            self._console.print(self._told(leaders))

    def _tell_ended(self, one: Running) -> None:
        """Once: the others go on without it, which is what there is to see."""
        if one.name not in self._ended:
            self._ended.add(one.name)
            code = one.process.returncode
            self._console.print(f"[red]{one.name} ended with {code}[/]   [dim]{one.log}[/]")

    def _told(self, leaders: Mapping[int, int | None]) -> str:
        parts: list[str] = []
        for node in range(1, self._plan.nodes + 1):
            led = sorted(group for group, leader in leaders.items() if leader == node)
            names = ["meta" if group == 0 else str(group) for group in led]
            parts.append(f"node {node} leads {' '.join(names) or 'nothing'}")
        return "   ".join(parts)

    async def _stop(self) -> None:
        for one in reversed(self._running):
            if one.process.returncode is None:
                one.process.send_signal(signal.SIGTERM)
        for one in reversed(self._running):
            try:
                async with asyncio.timeout(STOP_S):
                    await one.process.wait()
            except TimeoutError:
                one.process.kill()
                await one.process.wait()
        self._console.print("stopped")


async def _waited(stop: asyncio.Event, pause_s: float) -> None:
    try:
        async with asyncio.timeout(pause_s):
            await stop.wait()
    except TimeoutError:
        return


async def _read(url: str) -> dict[str, Any] | None:
    """The JSON at `url`; None when it is not (yet) answered with 200."""

    def read() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    return await asyncio.get_running_loop().run_in_executor(None, read)


def _kept_secret(path: Path) -> str:
    """Made at the first start; only its owner may read it."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(SystemIds().token(32).hex())
    return path.read_text().strip()


async def _main(plan: Plan, console: Console) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    await LocalCluster(plan, console).run(stop)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("./data-cluster"))
    parser.add_argument("--nodes", type=int, default=3, choices=range(1, 8))
    parser.add_argument("--http-port", type=int, default=8080, help="the router's; nodes follow")
    parser.add_argument("--rpc-port", type=int, default=9189, help="the first node's")
    asked = parser.parse_args()
    console = Console(highlight=False)
    plan = Plan(asked.data, asked.nodes, asked.http_port, asked.rpc_port)
    try:
        asyncio.run(_main(plan, console))
    except* Failed as group:
        for error in group.exceptions:
            console.print(f"[red]{error}[/]")
        sys.exit(1)


if __name__ == "__main__":
    main()
