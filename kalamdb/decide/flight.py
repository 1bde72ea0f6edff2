"""Commands between decision and apply: queued, taken into an entry, waited for.

`Waiter` is what a caller awaits (an asyncio future; deciding itself has no loop). Several callers
may wait for one command: repeats of a request id while it is pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kalamdb.errors import KalamError
from kalamdb.model.command import Effect, Outcome
from kalamdb.model.ids import Seq

NOTHING: Mapping[bytes, Effect] = {}


class Waiter(Protocol):
    """The part of a future that deciding uses."""

    def done(self) -> bool: ...

    def set_result(self, result: Outcome, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...

    def exception(self) -> BaseException | None: ...


class Flight:
    """One command on its way: what apply puts (for a part of a staged command: its chunk), who
    waits for it. `whole` is what the commit of a staged command stands for.

    `fresh` are the effects later decisions read, `answer` is what waiters get, `outcome` its stored
    bytes.
    """

    __slots__ = (
        "answer",
        "effects",
        "encoded",
        "fresh",
        "hash",
        "number",
        "outcome",
        "request_key",
        "seq_after",
        "waiters",
        "whole",
    )

    def __init__(
        self,
        number: int,
        effects: Sequence[Effect],
        fresh: Mapping[bytes, Effect],
        answer: Outcome,
    ) -> None:
        self.number = number
        self.effects = effects
        self.fresh = fresh
        self.answer = answer
        self.seq_after = answer.seq
        self.encoded = b""
        self.request_key: bytes | None = None
        self.hash = b""
        self.outcome = b""
        self.waiters: list[Waiter] = []
        self.whole: Sequence[Effect] | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """An entry handed to the log, as it was encoded."""

    payload: bytes
    term: int
    prev_seq: Seq
    seq_last: Seq
    time_ms: int
    commands: tuple[Flight, ...]


@dataclass(slots=True)
class Verdict:
    """An answer without a log entry (core.md §1): a refusal, or that there was nothing to do.

    It may be said once every command up to `after` is applied and leadership is confirmed.
    """

    after: int
    waiter: Waiter
    result: Outcome | KalamError
    confirmed: bool = False


def settle(waiter: Waiter, result: Outcome | KalamError) -> None:
    if waiter.done():
        return  # its caller has gone
    if isinstance(result, KalamError):
        waiter.set_exception(result)
        waiter.exception()  # a caller may be gone without a trace: that is no fault to report
    else:
        waiter.set_result(result)
