"""The network between members: one FIFO connection per pair, with delays, cuts and resets.

1. A frame takes a drawn time and never overtakes an older one of its direction.
2. A *cut* direction holds its frames, as TCP does: they arrive late when the cut is mended in time,
   else the connection breaks and they are lost.
3. A broken connection is told to both ends and comes back after a while, if nothing is cut.

Keeps: what arrives belongs to the connection it was sent on; a dead process receives nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from tests.sim.timeline import Timeline

Pair = tuple[int, int]

BREAKS_AFTER_S = (1.0, 3.0)  # a cut connection is given up
DIALS_AFTER_S = (0.05, 0.4)


class End(Protocol):
    """A member, as its connections see it."""

    @property
    def up(self) -> bool: ...

    def link_up(self, peer: int) -> None: ...

    def link_down(self, peer: int) -> None: ...

    def link_frame(self, peer: int, frame: bytes) -> None: ...


@dataclass(slots=True)
class _Connection:
    held: dict[Pair, list[bytes]] = field(default_factory=dict[Pair, list[bytes]])
    next_at_s: dict[Pair, float] = field(default_factory=dict[Pair, float])
    open: bool = True


class Network:
    """See the module. `delay_s` is (lowest, highest) of a frame's time and may be changed."""

    def __init__(self, timeline: Timeline, dice: Random) -> None:
        self._timeline = timeline
        self._dice = dice
        self._ends: dict[int, End] = {}
        self._connections: dict[Pair, _Connection] = {}
        self._cut: set[Pair] = set()
        self.delay_s = (0.0002, 0.004)
        self.frames = 0

    def join(self, node: int, end: End) -> None:
        self._ends[node] = end

    # Processes.

    def started(self, node: int) -> None:
        for peer in self._ends:
            if peer != node:
                self._dial(min(node, peer), max(node, peer))

    def ended(self, node: int) -> None:
        """The process is gone; its kernel closes its connections."""
        for peer in self._ends:
            if peer != node:
                self._break(min(node, peer), max(node, peer))

    def send(self, source: int, target: int, frame: bytes) -> bool:
        connection = self._connections.get((min(source, target), max(source, target)))
        if connection is None:
            return False
        self.frames += 1
        direction = (source, target)
        if direction in self._cut:
            connection.held.setdefault(direction, []).append(frame)
        else:
            self._carry(connection, direction, frame)
        return True

    def reaches(self, source: int, target: int) -> bool:
        """Bytes can go both ways just now."""
        ways = ((source, target), (target, source))
        return self._ends[target].up and not any(way in self._cut for way in ways)

    # Faults.

    def cut(self, *directions: Pair) -> None:
        for direction in directions:
            self._cut.add(direction)
            pair = (min(direction), max(direction))
            connection = self._connections.get(pair)
            if connection is not None:
                delay_s = self._dice.uniform(*BREAKS_AFTER_S)
                self._timeline.after(delay_s, self._gives_up(pair, connection))

    def mend(self) -> None:
        """No direction is cut any more."""
        cut, self._cut = self._cut, set()
        for direction in sorted(cut):
            connection = self._connections.get((min(direction), max(direction)))
            if connection is not None:
                for frame in connection.held.pop(direction, []):
                    self._carry(connection, direction, frame)

    def reset(self, a: int, b: int) -> None:
        """Both ends are told; what was on its way is lost."""
        low, high = min(a, b), max(a, b)
        self._break(low, high)
        self._dial_later(low, high)

    # Inside.

    def _carry(self, connection: _Connection, direction: Pair, frame: bytes) -> None:
        at_s = self._timeline.now_s + self._dice.uniform(*self.delay_s)
        at_s = max(at_s, connection.next_at_s.get(direction, 0.0) + 1e-6)
        connection.next_at_s[direction] = at_s
        source, target = direction

        def arrive() -> None:
            if not connection.open:
                return
            if direction in self._cut:
                connection.held.setdefault(direction, []).append(frame)
            else:
                self._ends[target].link_frame(source, frame)

        self._timeline.at(at_s, arrive)

    def _gives_up(self, pair: Pair, connection: _Connection) -> Callable[[], None]:
        def check() -> None:
            cut = pair in self._cut or pair[::-1] in self._cut
            if cut and self._connections.get(pair) is connection:
                self._break(*pair)
                self._dial_later(*pair)

        return check

    def _break(self, low: int, high: int) -> None:
        connection = self._connections.pop((low, high), None)
        if connection is None:
            return
        connection.open = False
        for node, peer in ((low, high), (high, low)):
            if self._ends[node].up:
                self._ends[node].link_down(peer)

    def _dial_later(self, low: int, high: int) -> None:
        delay_s = self._dice.uniform(*DIALS_AFTER_S)
        self._timeline.after(delay_s, lambda: self._dial(low, high))

    def _dial(self, low: int, high: int) -> None:
        if (low, high) in self._connections or not (self._ends[low].up and self._ends[high].up):
            return
        if (low, high) in self._cut or (high, low) in self._cut:
            self._dial_later(low, high)
            return
        self._connections[low, high] = _Connection()
        for node, peer in ((low, high), (high, low)):
            self._ends[node].link_up(peer)
