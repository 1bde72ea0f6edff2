"""The audit log: what is written when, what is counted, what is bounded."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kalamdb.config import AuditSettings
from kalamdb.errors import Indeterminate, Unavailable
from kalamdb.model.audit import AuditEntry
from kalamdb.model.principal import Principal, Role
from kalamdb.model.work import PutAudit
from kalamdb.session import audit
from kalamdb.session.audit import Act, AuditLog
from tests.unit.replica.harness import World
from tests.unit.session.fakes import FakeClock


class MetaGroups:
    """The meta group as `Groups` has it; `failing` makes it refuse."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.failing: Exception | None = None
        self.batches: list[tuple[AuditEntry, ...]] = []

    async def write_meta(self, work: Any, tag: Any = None) -> Any:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()
        loop.call_soon(answered.set_result, None)
        await answered
        if self.failing is not None:
            raise self.failing
        if isinstance(work, PutAudit):
            self.batches.append(work.entries)
        return self.world.do(work)


class House:
    def __init__(self, **settings: Any) -> None:
        self.world = World(group=0)
        self.groups = MetaGroups(self.world)
        self.clock = FakeClock()
        self.log = AuditLog(
            cast(Any, self.groups), self.world.store, self.clock, AuditSettings(**settings)
        )

    def entries(self, limit: int = 1000, before: int | None = None) -> list[tuple[int, str]]:
        return [(each.number, each.entry.target) for each in self.log.read(limit, before)]


@pytest.fixture
async def house() -> House:
    return House()


def act(target: str, action: str = "TEST", address: str | None = None) -> Act:
    return Act(action, "ann", target, address)


async def test_entries_are_written_together_and_read_newest_first(house: House) -> None:
    for number in range(5):
        house.log.note(act(f"t{number}"), "why")
    assert house.entries() == []
    await house.log.step()
    assert [len(batch) for batch in house.groups.batches] == [5]
    assert house.entries() == [(n + 1, f"t{n}") for n in reversed(range(5))]
    assert house.entries(2, before=4) == [(3, "t2"), (2, "t1")]
    assert house.entries(2, before=1) == []
    entry = house.log.read(1)[0].entry
    assert entry == AuditEntry(house.clock.now_ms, "ann", "TEST", "t4", "why", None, None)
    await house.log.step()
    assert len(house.groups.batches) == 1, "nothing new, nothing written"


async def test_record_returns_when_it_is_written(house: House) -> None:
    house.log.note(act("before"))
    await asyncio.gather(*(house.log.record(act(f"r{n}")) for n in range(20)))
    assert len(house.entries()) == 21
    assert len(house.groups.batches) <= 2, "those who wait share a command"


async def test_what_cannot_be_written_waits_and_says_so(house: House) -> None:
    house.groups.failing = Unavailable("no leader")
    with pytest.raises(Indeterminate):  # what it tells of was done
        await house.log.record(act("r"))
    house.log.note(act("n"))
    with pytest.raises(Unavailable):
        await house.log.step()
    await house.log.close()  # says so in the log, and goes on
    house.groups.failing = None
    await house.log.step()
    assert [target for _, target in house.entries()] == ["n", "r"]


async def test_refused_sign_ins_of_a_minute_are_one_entry(house: House) -> None:
    for number in range(300):
        address = f"192.0.2.{number % 3}"
        house.log.count(Act(audit.LOGIN_REFUSED, "ann", "password", address))
    await house.log.step()
    assert house.entries() == []
    house.clock.pass_s(60)
    await house.log.step()
    found = [(each.entry.address, each.entry.details) for each in house.log.read(10)]
    assert sorted(found, key=str) == [
        (f"192.0.2.{n}", "100 times within a minute") for n in range(3)
    ]


async def test_strangers_cannot_fill_the_log(house: House) -> None:
    for number in range(1000):
        house.log.count(Act(audit.LOGIN_REFUSED, f"user {number}", "password", "192.0.2.1"))
    house.log.on_execute_as(Principal.of("svc", Role.SERVICE), "x" * 5000, True)
    await house.log.close()
    kept = house.log.read(1000)
    refused = [each.entry for each in kept if each.entry.action == audit.LOGIN_REFUSED]
    assert len(refused) == audit.DISTINCT_MAX[audit.LOGIN_REFUSED] + 1
    (rest,) = [entry for entry in refused if entry.actor == "(others)"]
    assert rest.details == "950 times within a minute"
    (used,) = [each.entry for each in kept if each.entry.action == audit.EXECUTE_AS]
    assert (used.actor, used.details) == ("svc", None)
    assert len(used.target) == len(used.subject or "") == 128


async def test_a_full_queue_is_counted_and_the_count_is_an_entry() -> None:
    house = House(queue_entries=100)
    for number in range(150):
        house.log.note(act(f"t{number}"))
    await house.log.record(act("waited for"))
    newest = house.log.read(2)
    assert [each.entry.action for each in newest] == [audit.OVERFLOW, "TEST"]
    assert newest[0].entry.details == "50 entries did not fit in the queue"
    assert newest[1].entry.target == "waited for"
    assert house.log.statistics().overflowed_total == 50
    await house.log.step()
    assert house.log.read(1)[0].number == newest[0].number, "said once"


async def test_entries_leave_by_age_and_by_number() -> None:
    house = House(retention_days=1, entries_max=1000)
    for number in range(1500):
        house.log.note(act(f"t{number}"))
    await house.log.step()
    await house.log.trim()
    numbers = [number for number, _ in house.entries(5000)]
    assert numbers == list(range(1500, 500, -1))
    house.clock.pass_s(86_401)
    house.log.note(act("new"))
    await house.log.step()
    await house.log.trim()
    assert house.entries() == [(1501, "new")], "numbers go on"
    await house.log.trim()


async def test_numbers_go_on_after_everything_left() -> None:
    house = House(retention_days=1)
    house.log.note(act("old"))
    await house.log.step()
    house.clock.pass_s(90_000)
    await house.log.trim()
    assert house.entries() == []
    house.log.note(act("new"))
    await house.log.step()
    assert house.entries() == [(2, "new")]


async def test_a_definition_whose_entry_is_late_is_indeterminate(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RECORD_TIMEOUT_S", 0.01)

    async def never(work: Any, tag: Any = None) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(house.groups, "write_meta", never)
    with pytest.raises(Indeterminate):
        await house.log.record(act("r"))
