"""What a leader knows of one follower, and so what to send it next.

- PROBE: it is not known where the logs part. One message at a time, then wait for the answer or
  the next heartbeat. A refusal names a term and an index, so each round skips a whole term.
- REPLICATE: the logs agree; entries are pipelined up to a bound of bytes in flight.
- IMAGE: what it needs is no longer in the log; only pointers to an image are sent.

Probing without pipelining is what lets a follower with a long divergent tail recover: refusals of
older messages never move `next_index` forward again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

IN_FLIGHT_BYTES_MAX = 8 << 20
BEHIND_ENTRIES_MAX = 1000  # a learner further behind has not caught up


class Stage(Enum):
    PROBE = auto()
    REPLICATE = auto()
    IMAGE = auto()


@dataclass(slots=True)
class Progress:
    """`match_index`: equal up to here, on the follower's disk. `next_index`: the first entry to
    send.
    """

    next_index: int
    match_index: int = 0
    stage: Stage = Stage.PROBE
    probing: bool = False  # PROBE: a message is out
    in_flight: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    in_flight_bytes: int = 0
    life: int | None = None  # of the one who answered; `match_index` is what that one has
    round_index: int = 0  # what was in the log when the round began
    round_at_s: float = 0.0
    round_s: float = float("inf")  # how long the last round took

    def caught_up(self, last_index: int, round_s_max: float) -> bool:
        """The last round was short and little has come since."""
        return (
            self.stage is Stage.REPLICATE
            and last_index - self.match_index <= BEHIND_ENTRIES_MAX
            and self.round_s <= round_s_max
        )

    def turned(self, last_index: int, now_s: float) -> None:
        """After an answer: begin the next round when it has all of this one."""
        if self.round_index == 0:
            self.round_index, self.round_at_s = last_index, now_s
        elif self.match_index >= self.round_index:
            self.round_s = now_s - self.round_at_s
            self.round_index, self.round_at_s = last_index, now_s

    def sent(self, last_index: int, size_bytes: int) -> None:
        """Entries up to `last_index` went out in REPLICATE."""
        self.next_index = last_index + 1
        self.in_flight.append((last_index, size_bytes))
        self.in_flight_bytes += size_bytes

    def accepted(self, index: int) -> None:
        """The follower's log equals ours up to `index`."""
        self.match_index = max(self.match_index, index)
        while self.in_flight and self.in_flight[0][0] <= index:
            self.in_flight_bytes -= self.in_flight.popleft()[1]
        if self.stage is Stage.REPLICATE:
            self.next_index = max(self.next_index, self.match_index + 1)
        else:
            self._enter(Stage.REPLICATE, self.match_index + 1)

    def rejected(self, prev_index: int, common_index: int) -> bool:
        """It has no entry like ours at `prev_index`; they may agree up to `common_index`.
        False: an old answer.
        """
        if prev_index <= self.match_index:
            return False
        if self.stage is Stage.PROBE and prev_index != self.next_index - 1:
            return False
        common_index = min(common_index, prev_index - 1)
        self._enter(Stage.PROBE, max(common_index, self.match_index) + 1)
        return True

    def lost(self) -> None:
        """What was in flight may be lost: the link broke."""
        self._enter(Stage.PROBE, self.match_index + 1 if self.match_index else self.next_index)

    def needs_image(self) -> None:
        self._enter(Stage.IMAGE, self.next_index)

    def _enter(self, stage: Stage, next_index: int) -> None:
        self.stage, self.next_index, self.probing = stage, next_index, False
        self.in_flight.clear()
        self.in_flight_bytes = 0
