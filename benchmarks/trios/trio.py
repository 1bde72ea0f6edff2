"""What a replicated system under test is: its members, how it is loaded, how its members fail.

Invariants: members are processes of `Processes`, so that each can be measured and killed alone; a
trio that does not become whole raises StackError with the end of its logs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import ID_MARK, Lane
from benchmarks.stacks.stack import Processes, StackError, wait_until

MEMBERS = (1, 2, 3)
ANYWHERE = "any"
LEADER = "leader"
ROUTER = "router"
ONE_LEADER = "one leader"
"""Which members a client speaks to: each to one of the three, whoever leads; each to the leader of
its tenant; all to the router; all to the router, and only tenants whose leader is member
`Trio.measured_leader`.
"""

VALUE = (
    f"message {ID_MARK} "
    + "the quick brown fox jumps over the lazy dog and so on and so forth, to the very end."
)
"""About 100 characters."""

_WHOLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Wire:
    """How one way of loading a trio looks: lanes of templates, and what each answer must hold."""

    lanes: tuple[Lane, ...]
    expect: tuple[str, ...]
    tenants: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One HTTP write of one tenant, whose leader is killed: `template` to `port`."""

    port: int
    template: str


class Trio(ABC):
    """One system under test."""

    name: str
    title: str
    durability: str
    insert_ways: Sequence[str] = ()
    generator: str = "benchmarks.load"

    def __init__(self, directory: Path, groups: int) -> None:
        self.directory = directory
        self.groups = groups

    @abstractmethod
    def launch(self, member: int) -> None:
        """Start one member and return without waiting."""

    @abstractmethod
    def setup(self) -> None:
        """Create what rows need. Called once, when whole."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether all members serve and everything has a leader."""

    @abstractmethod
    def inserts(self, way: str) -> Wire:
        """How rows are written."""

    @abstractmethod
    def parts(self) -> Mapping[str, list[int]]:
        """Root pids of each process that serves: `1`, `2`, `3`, and `router`."""

    @abstractmethod
    def kill(self, member: int) -> None:
        """kill -9 of one member."""

    @abstractmethod
    def stop(self) -> None:
        """End all processes."""

    def start(self) -> None:
        """Launch all members, wait, set up. Raises StackError."""
        for member in MEMBERS:
            self.launch(member)
        self.wait_whole()
        self.setup()

    def wait_whole(self) -> None:
        """Wait for `whole`. Raises StackError."""
        self.wait_for(self.whole, "whole")

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = _WHOLE_S):
        """Wait for a condition. Raises StackError with the end of the logs."""
        if not wait_until(condition, timeout_s, every_s=0.02):
            raise StackError(f"{self.name} was not {what} in {timeout_s} s\n{self.log_tail()}")

    def pids(self) -> list[int]:
        """Root pids of everything."""
        return [pid for pids in self.parts().values() for pid in pids]

    def log_tail(self) -> str:
        """The last lines of every log."""
        parts: list[str] = []
        for log in sorted(self.directory.rglob("*.log")):
            # LevelDB calls its own files so too.
            if log.stem.isdigit():
                continue
            lines = log.read_text(errors="replace").splitlines()[-15:]
            parts.append(f"--- {log.name}\n" + "\n".join(lines))
        return "\n".join(parts)


class Database(Trio):
    """A trio that answers linearizable reads, and whose failures are measured."""

    read_ways: Sequence[str] = ()

    @abstractmethod
    def reads(self, way: str) -> Wire:
        """How rows are read, linearizably."""

    @abstractmethod
    def leader(self) -> int:
        """The member that leads the probed tenant's group now; 0 when there is none."""

    @abstractmethod
    def probe(self, dead: int) -> Probe:
        """A write of the probed tenant that reaches the trio while member `dead` is down."""

    @abstractmethod
    def level(self) -> Callable[[int], bool]:
        """A test whether a member has everything that is committed now."""

    @abstractmethod
    def serves_without(self, member: int) -> bool:
        """Whether everything is led while a member is down."""

    @property
    def measured_leader(self) -> int:
        """The member that leads in the way ONE_LEADER, and for a trio with a single leader."""
        return self.leader()


class Programs:
    """The members of a trio whose programs are plain commands."""

    def __init__(self) -> None:
        self._members = {member: Processes() for member in MEMBERS}

    def launch(self, member: int, command: list[str], log: Path) -> None:
        self._members[member].spawn(command, log=log)

    def kill(self, member: int) -> None:
        self._members[member].kill()

    def stop(self) -> None:
        for processes in self._members.values():
            processes.kill()

    def parts(self) -> dict[str, list[int]]:
        return {str(member): each.pids() for member, each in self._members.items()}

    def died(self) -> bool:
        return any(processes.died() for processes in self._members.values())
