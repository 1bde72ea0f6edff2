"""Users take turns, and each has its share of a worker's time."""

from __future__ import annotations

from kalamdb.feed.budget import BURST_S, Account, Job, Lines


class Named:
    """A job that only has a name."""

    def __init__(self, name: str, account: Account) -> None:
        self.name = name
        self.account = account

    def put_off(self, wait_s: float) -> None:
        raise AssertionError("nobody owes anything here")

    def broke(self) -> None: ...

    async def run(self) -> None: ...


def test_users_take_turns() -> None:
    started: list[str] = []

    def start(job: Job) -> None:
        assert isinstance(job, Named)
        started.append(job.name)

    lines = Lines(1, start)
    alice, bob = Account("alice", 1.0, 0.0), Account("bob", 1.0, 0.0)
    for number in range(3):
        lines.add(Named(f"a{number}", alice))
    lines.add(Named("b0", bob))
    assert (started, lines.waiting, lines.running) == (["a0"], 3, 1)
    for _ in range(4):
        lines.done()
    assert started == ["a0", "a1", "b0", "a2"]
    assert (lines.waiting, lines.running) == (0, 0)


def test_a_job_that_is_wanted_no_more_leaves_its_line() -> None:
    started: list[Job] = []
    lines = Lines(1, started.append)
    alice, bob = Account("alice", 1.0, 0.0), Account("bob", 1.0, 0.0)
    running, gone, last = Named("0", alice), Named("1", alice), Named("2", bob)
    for job in (running, gone, last):
        lines.add(job)
    lines.drop(gone)
    lines.drop(running)  # it does not wait
    assert (lines.waiting, lines.running) == (1, 1)
    lines.add(gone)
    lines.done()
    lines.done()
    assert started == [running, last, gone]


def test_so_many_at_once() -> None:
    started: list[Job] = []
    lines = Lines(2, started.append)
    account = Account("alice", 1.0, 0.0)
    for number in range(5):
        lines.add(Named(str(number), account))
    assert (len(started), lines.waiting) == (2, 3)


def test_time_is_paid_back_by_waiting() -> None:
    account = Account("alice", 0.5, 0.0)
    assert account.wait_s(0.0) == 0
    account.pay(BURST_S + 1.0, 0.0)
    assert 2.0 <= account.wait_s(0.0) < 2.1
    assert 1.0 <= account.wait_s(1.0) < 1.1
    assert account.wait_s(2.1) == 0
    assert not account.is_idle(2.1), "what it owes is not forgotten"
    assert account.is_idle(10.0)
    account.pay(BURST_S / 2, 1000.0)
    assert account.wait_s(1000.0) == 0, "credit does not grow beyond a burst"
    account.pay(BURST_S, 1000.0)
    assert account.wait_s(1000.0) > 0
