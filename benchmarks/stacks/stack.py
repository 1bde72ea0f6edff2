"""What a stack under test is: its processes, its life, and the rows all stacks store.

Invariants: processes are started by `Processes` only, so that all of them can be measured, stopped
and killed; a stack that does not become ready raises StackError with the end of its logs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import ID_MARK, TIME_MARK
from benchmarks.measure import process_tree

AUTHOR = f"author {ID_MARK}"
BODY = (
    f"message {ID_MARK} "
    + "the quick brown fox jumps over the lazy dog and so on and so forth, to the end."
)
LIVE_BODY = (
    f"message {ID_MARK} {TIME_MARK} "
    + "the quick brown fox jumps over the lazy dog and so on to end."
)
SCORE = f"{ID_MARK}.5"
FIRST_ID = 1_000_000_001
"""Row numbers start here: all have ten digits, so requests have a fixed length."""

TENANT = "bench"
PASSWORD = "bench-Horse-battery-7"

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0


class StackError(Exception):
    """A stack could not be started or set up; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Request templates of a stack (see benchmarks.load) and what its answers must hold."""

    port: int
    insert: str
    insert_live: str
    insert_expect: tuple[str, ...]
    insert_status: int
    read: str
    read_expect: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveProtocol:
    """How to subscribe.

    `kind` is "websocket" or "sse". For a WebSocket `steps` are (text to send or "", text to wait
    for); for SSE the only step is the POST template that follows PB_CONNECT, with `{client}` for
    the client id. `keepalive` is a text frame sent every few seconds, or "". `ordered` says whether
    the stack promises one order for all subscribers.
    """

    kind: str
    port: int
    path: str
    headers: Mapping[str, str]
    steps: tuple[tuple[str, str], ...]
    keepalive: str = ""
    ordered: bool = True


@dataclass(slots=True)
class Processes:
    """The server processes of a stack and where their output goes."""

    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def spawn(
        self,
        command: list[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a server; its output is appended to `log`."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                user=user,
                group=user,
                extra_groups=[] if user else None,
                cwd=cwd,
            )
        self.running.append(process)
        return process

    def pids(self) -> list[int]:
        """Root pids, for benchmarks.measure."""
        return [process.pid for process in self.running]

    def died(self) -> bool:
        """Whether a server has ended."""
        return any(process.poll() is not None for process in self.running)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the servers, last started first; SIGKILL for those that do not obey."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(how)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def kill(self) -> None:
        """SIGKILL to every process, descendants included; returns when all are gone."""
        tree = process_tree(self.pids())
        for pid in tree:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.running:
            process.wait()
        self.running.clear()
        wait_until(lambda: not process_tree(tree), _STOP_TIMEOUT_S)


class Stack(ABC):
    """One stack under test. Subclasses fill in how it is started, set up and spoken to."""

    name: str
    title: str
    durability: str
    reads_differ: bool = True
    """False for a variant whose reads are those of another stack and need no run of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes = Processes()

    @abstractmethod
    def prepare(self) -> None:
        """Make the data directory. Called once, before the first `launch`."""

    @abstractmethod
    def launch(self) -> None:
        """Start the server processes and return without waiting."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the stack says it can serve, by its own health endpoint."""

    @abstractmethod
    def setup(self) -> None:
        """Create the table and the tenant's user and log in. Called once, when ready."""

    @abstractmethod
    def requests(self) -> Requests:
        """Request templates; valid after `setup`."""

    @abstractmethod
    def live(self) -> LiveProtocol:
        """How to subscribe to the tenant's rows; valid after `setup`."""

    def start(self) -> None:
        """prepare, launch, wait, setup. Raises StackError."""
        self.prepare()
        self.launch()
        self.wait_ready()
        self.setup()

    def wait_ready(self) -> None:
        """Wait for `ready`. Raises StackError with the end of the logs."""
        if not wait_until(lambda: self.processes.died() or self.ready(), _READY_TIMEOUT_S):
            raise StackError(f"{self.name} was not ready in time\n{self.log_tail()}")
        if self.processes.died():
            raise StackError(f"{self.name} ended at start\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop all server processes."""
        self.processes.stop()

    def kill(self) -> None:
        """kill -9 of all server processes."""
        self.processes.kill()

    def pids(self) -> list[int]:
        """Root pids of the server processes."""
        return self.processes.pids()

    def log_tail(self) -> str:
        """The last lines of every log of the stack."""
        parts: list[str] = []
        for log in sorted(self.directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            parts.append(f"--- {log.name}\n" + "\n".join(lines))
        return "\n".join(parts)


def free_port() -> int:
    """A loopback TCP port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.01) -> bool:
    """Poll `condition` until it holds; False when it did not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause(every_s)
    return True


def pause(seconds: float) -> None:
    """Let the servers settle for a moment; used between rounds, never to wait for a condition."""
    threading.Event().wait(seconds)
