"""Random statements against a dict: rows, UNIQUE, counts, the chain of changes, every digest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from kalamdb.errors import UniqueViolation
from kalamdb.model import codec
from kalamdb.model.change import Change, Op, Row
from kalamdb.model.ids import GroupId, Seq, slot_of
from kalamdb.model.work import ConflictRule, Work
from kalamdb.replica.replica import Replica
from kalamdb.store.memory import MemoryStore
from tests.unit.replica.harness import (
    ALICE,
    HandLog,
    ListSink,
    TestClock,
    World,
    delete,
    insert,
    message,
    message_table,
    update,
)

TABLE = message_table()
KEYS = st.integers(0, 3)
MAILS = st.sampled_from([None, "a", "b", "c"])
BODIES = st.sampled_from(["x", "y"])
ROWS = st.builds(message, KEYS, BODIES, MAILS)

UPSERT = ConflictRule(assign=lambda old, new: new)
NOTHING = ConflictRule(any_target=True)


@dataclass(frozen=True)
class Step:
    kind: str
    rows: list[Row] = field(default_factory=list)
    key: int = 0
    mail: str | None = None


STEPS = st.one_of(
    st.builds(Step, st.sampled_from(["insert", "nothing", "upsert"]), st.lists(ROWS, max_size=3)),
    st.builds(Step, st.just("update"), key=KEYS, mail=MAILS),
    st.builds(Step, st.just("delete"), key=KEYS),
    st.builds(Step, st.sampled_from(["pull", "commit", "term"])),
)


class Refused(Exception):
    pass


class Model:
    """What the statements should do, worked out on a plain dict."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    def run(self, step: Step) -> int:
        """How many rows are affected. Raises Refused, and then nothing has happened."""
        rows = {key: dict(row) for key, row in self.rows.items()}
        affected = 0
        touched: set[int] = set()
        match step.kind:
            case "delete":
                affected = rows.pop(step.key, None) is not None
            case "update":
                if step.key in rows:
                    row = rows[step.key]
                    row.pop(3, None)
                    if step.mail is not None:
                        row[3] = step.mail
                    affected = 1
            case _:
                for row in step.rows:
                    taken = {r[3] for k, r in rows.items() if 3 in r}
                    clash = row.get(3) in taken
                    if step.kind == "nothing" and (row[1] in rows or clash):
                        continue
                    if row[1] in rows and (step.kind != "upsert" or row[1] in touched):
                        raise Refused
                    rows[row[1]] = row
                    touched.add(row[1])
                    affected += 1
                    self._check(rows)
        self._check(rows)
        self.rows = rows
        return int(affected)

    def _check(self, rows: dict[int, Row]) -> None:
        mails = [row[3] for row in rows.values() if 3 in row]
        if len(mails) != len(set(mails)):
            raise Refused


def work_of(step: Step) -> Work:
    match step.kind:
        case "insert":
            return insert(TABLE, *step.rows)
        case "upsert":
            return insert(TABLE, *step.rows, conflict=UPSERT)
        case "nothing":
            return insert(TABLE, *step.rows, conflict=NOTHING)
        case "update":
            return update(TABLE, step.key, {3: step.mail})
        case _:
            return delete(TABLE, step.key)


@settings(max_examples=120)
@given(st.lists(STEPS, max_size=25))
def test_replica_is_the_model(steps: list[Step]) -> None:
    asyncio.run(follow(steps))


async def follow(steps: list[Step]) -> None:
    world, model = World(slots=[slot_of(ALICE)]), Model()
    world.add(TABLE)
    waiting: list[tuple[asyncio.Future, int | None]] = []  # type: ignore[type-arg]
    term = 1
    for step in steps:
        match step.kind:
            case "pull":
                world.log.pull()
            case "commit":
                world.log.commit(1)
            case "term":
                world.log.turn()
                term += 1
                world.log.lose()
                world.log.elect(term)
            case _:
                try:
                    expected: int | None = model.run(step)
                except Refused:
                    expected = None
                waiting.append((world.ask(work_of(step)), expected))
    world.log.turn()
    for asked, expected in waiting:
        if expected is None:
            assert asked.exception() is not None
        else:
            assert asked.result().affected == expected
    check_state(world, model)
    check_changes(world, model)


def check_state(world: World, model: Model) -> None:
    assert {row[1]: row for row in world.rows(TABLE)} == model.rows
    for key in range(4):
        assert world.row(TABLE, key) == model.rows.get(key)
    with world.replica.snapshot() as snapshot:
        by_seq = [codec.decode_row(raw) for raw in snapshot.scan_by_seq(TABLE, ALICE, Seq(0))]
    assert [seq for seq, _ in by_seq] == sorted(seq for seq, _ in by_seq)
    assert len(by_seq) == len(model.rows)
    for row in model.rows.values():
        if 3 in row:
            try:
                world.do(insert(TABLE, message(99, mail=row[3])))
                raise AssertionError("UNIQUE was forgotten")
            except UniqueViolation:
                pass
    other = Replica(GroupId(1), MemoryStore(GroupId(1)), ListSink(), TestClock(0))
    log = HandLog(other)
    log.follow(world.log)
    log.commit()
    assert other.digest() == world.replica.digest()


def check_changes(world: World, model: Model) -> None:
    """Replaying the changes from any point gives the rows; the chain has no gap."""
    with world.replica.snapshot() as snapshot:
        found = list(snapshot.changes(TABLE, ALICE, Seq(0), snapshot.seq))
    assert found == world.sink.changes
    rows: dict[bytes, Row] = {}
    prev = Seq(0)
    for change in found:
        assert change.prev_seq == prev < change.seq
        prev = change.seq
        assert rows.get(change.key) == change.before
        replay(rows, change)
    assert {row[1]: row for row in rows.values()} == model.rows


def replay(rows: dict[bytes, Row], change: Change) -> None:
    if change.op is Op.DELETE:
        del rows[change.key]
    else:
        assert change.after is not None
        rows[change.key] = change.after
