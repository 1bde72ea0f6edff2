"""Who may evaluate next: one line per user, served in turn, each user within a share of a worker.

Evaluation time is paid from a user's credit, which grows with time up to a second's worth of
running; who is below zero waits until it has grown back. So a costly query is evaluated rarely and
a cheap one often, and nobody's queries stand in front of everybody else's.

Keeps: at most `at_once` jobs run; a job waits in one line at most once, and not for longer than it
is wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

BURST_S = 1.0


class Job(Protocol):
    """An evaluation."""

    account: Account

    def put_off(self, wait_s: float) -> None:
        """Its turn came while its user had used up its share: come again later."""
        ...

    def broke(self) -> None:
        """`run` raised what nobody had thought of: end what it is for."""
        ...

    async def run(self) -> None: ...


class Account:
    """What one user has used: `subscriptions` that are open, bytes of rows `held` for pages."""

    __slots__ = ("_credit_s", "_seen_s", "_share", "held_bytes", "line", "subscriptions", "user")

    def __init__(self, user: str, share: float, now_s: float) -> None:
        self.user = user
        self.subscriptions = 0
        self.held_bytes = 0
        self.line: deque[Job] = deque()
        self._share = share
        self._credit_s = BURST_S
        self._seen_s = now_s

    def pay(self, took_s: float, now_s: float) -> None:
        self._grow(now_s)
        self._credit_s -= took_s

    def wait_s(self, now_s: float) -> float:
        """How long until it may evaluate; 0: now."""
        self._grow(now_s)
        return 0.0 if self._credit_s > 0 else (-self._credit_s + 0.001) / self._share

    def is_idle(self, now_s: float) -> bool:
        """Nothing is open, nothing is owed: it may be forgotten."""
        self._grow(now_s)
        return not self.subscriptions and not self.line and self._credit_s >= BURST_S

    def _grow(self, now_s: float) -> None:
        grown = self._credit_s + max(0.0, now_s - self._seen_s) * self._share
        self._credit_s = min(BURST_S, grown)
        self._seen_s = max(self._seen_s, now_s)


class Lines:
    """The lines of all users. `start(job)` runs one; `done()` says that one is through."""

    def __init__(self, at_once: int, start: Callable[[Job], None]) -> None:
        self.running = 0
        self._at_once = at_once
        self._start = start
        self._turns: deque[Account] = deque()

    @property
    def waiting(self) -> int:
        return sum(len(account.line) for account in self._turns)

    def add(self, job: Job) -> None:
        account = job.account
        account.line.append(job)
        if len(account.line) == 1:
            self._turns.append(account)
        self._next()

    def drop(self, job: Job) -> None:
        """It is wanted no more; nothing happens when it does not wait."""
        account = job.account
        if job in account.line:
            account.line.remove(job)
            if not account.line:
                self._turns.remove(account)

    def done(self) -> None:
        self.running -= 1
        self._next()

    def clear(self) -> None:
        for account in self._turns:
            account.line.clear()
        self._turns.clear()

    def _next(self) -> None:
        while self.running < self._at_once and self._turns:
            account = self._turns.popleft()
            job = account.line.popleft()
            if account.line:
                self._turns.append(account)
            self.running += 1
            self._start(job)
