"""Whatever is written, and whenever indexes come and go: entries are those of the rows.

Random statements with what is decided and not applied, new terms, indexes built step by step
between the writes, dropped and purged between them. At the end every index that is whole must hold
exactly what the rows say, and nothing is left of those that were dropped.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from random import Random

import pytest

from kalamdb.errors import Conflict, IndexNotUnique, SchemaChanged, UniqueViolation
from kalamdb.model import keys
from kalamdb.model.change import Row
from kalamdb.model.ids import Partition, slot_of
from kalamdb.model.keys import Family
from kalamdb.model.table import Index, IndexState, TableDef, Unique
from kalamdb.model.work import BuildIndex, ConflictRule, PurgeIndexes, PutFence
from tests.unit.replica.harness import ALICE, BOB, World, delete, insert, message_table, update

UPSERT = ConflictRule(assign=lambda old, new: new)
NOTHING = ConflictRule(any_target=True)


@dataclass(frozen=True)
class Step:
    kind: str
    key: int = 0
    mail: str | None = None
    stars: int | None = None
    columns: tuple[int, ...] = ()
    bob: bool = False


KINDS = [
    *["insert", "upsert", "nothing", "update", "update", "delete"] * 2,
    *["index", "unique", "build", "build", "build", "drop", "purge", "pull", "turn", "term"],
]
COLUMNS = [(4,), (3,), (4, 3), (3, 4), (2, 4)]
STEPS = 80
SEEDS = range(40)


def some_step(dice: Random) -> Step:
    return Step(
        dice.choice(KINDS),
        dice.randrange(6),
        dice.choice((None, "a", "b", "c", "d")),
        dice.choice((None, 0, 1)),
        dice.choice(COLUMNS),
        dice.random() < 0.3,
    )


class History:
    """One table and its indexes, driven as `session/tables.py` drives them."""

    def __init__(self) -> None:
        slots = sorted({slot_of(ALICE), slot_of(BOB)})
        self.world = World(slots=slots)
        self.table = message_table(uniques=(), next_index_id=1)
        self.world.add(self.table)
        self.after = b""
        self.term = 1
        self.asked: list[asyncio.Future] = []  # type: ignore[type-arg]

    @property
    def building(self) -> Index | Unique | None:
        made = (*self.table.indexes, *self.table.uniques)
        return next((one for one in made if one.state is IndexState.BUILDING), None)

    def fence(self, **changes: object) -> None:
        """The next definition, in force at once."""
        self.world.log.turn()
        self.table = replace(self.table, version=self.table.version + 1, **changes)  # type: ignore[arg-type]
        self.world.do(PutFence(self.table))

    def run(self, step: Step) -> None:
        table, world = self.table, self.world
        partition = BOB if step.bob else ALICE
        row: Row = {1: step.key, 2: "hi"}
        row |= {} if step.mail is None else {3: step.mail}
        row |= {} if step.stars is None else {4: step.stars}
        conflict = {"insert": None, "upsert": UPSERT, "nothing": NOTHING}
        match step.kind:
            case "insert" | "upsert" | "nothing":
                work = insert(table, row, partition=partition, conflict=conflict[step.kind])
                self.asked.append(world.ask(work))
            case "update":
                change = {3: step.mail, 4: step.stars}
                self.asked.append(world.ask(update(table, step.key, change, partition)))
            case "delete":
                self.asked.append(world.ask(delete(table, step.key, partition=partition)))
            case "index" | "unique":
                self.make(step)
            case "build":
                self.build()
            case "drop":
                self.drop()
            case "purge":
                self.asked.append(world.ask(PurgeIndexes(table.id, 3)))
            case "pull":
                world.log.pull()
            case "turn":
                world.log.turn()
            case _:
                world.log.turn()
                self.term += 1
                world.log.lose()
                world.log.elect(self.term)

    def make(self, step: Step) -> None:
        if self.building is not None:
            return
        number = self.table.next_index_id
        name, state = f"i{number}", IndexState.BUILDING
        self.after = b""
        if step.kind == "index":
            made = (*self.table.indexes, Index(number, step.columns, name, state))
            self.fence(indexes=made, next_index_id=number + 1)
        else:
            one = Unique(number, step.columns, name, by_index=True, state=state)
            self.fence(uniques=(*self.table.uniques, one), next_index_id=number + 1)

    def build(self) -> None:
        """One step of two rows, between the writes; what is decided stays undecided."""
        one = self.building
        if one is None:
            return
        asked = self.world.ask(BuildIndex(self.table, one.id, self.after, 2))
        if not asked.done():
            self.world.log.turn()
        try:
            outcome = asked.result()
        except IndexNotUnique:
            self.fence(
                uniques=tuple(unique for unique in self.table.uniques if unique.id != one.id)
            )
            return
        assert outcome.rows is not None
        if outcome.rows[0][0] is not None:
            self.after = bytes.fromhex(str(outcome.rows[0][0]))
            return
        ready = IndexState.READY
        self.fence(
            indexes=tuple(replace(index, state=ready) for index in self.table.indexes),
            uniques=tuple(replace(unique, state=ready) for unique in self.table.uniques),
        )

    def drop(self) -> None:
        self.after = b""
        self.fence(indexes=self.table.indexes[1:], uniques=self.table.uniques[1:])

    def finish(self) -> None:
        self.world.log.turn()
        while self.building is not None:
            self.build()
        while self.world.do(PurgeIndexes(self.table.id)).affected:
            pass
        for one in self.asked:
            error = one.exception()
            assert error is None or isinstance(error, (UniqueViolation, SchemaChanged, Conflict))


def expected(table: TableDef, rows: dict[Partition, list[Row]]) -> dict[bytes, bytes]:
    """The entries that the rows should have, worked out one by one."""
    found: dict[bytes, bytes] = {}
    for partition, listed in rows.items():
        for row in listed:
            pk = keys.encode_key([column.type for column in table.key_columns], [row[1]])
            for index in table.indexes:
                values = _values(table, index.columns, row)
                found[keys.index(table.id, index.id, partition, values, pk)] = b""
            for unique in table.uniques:
                if all(column in row for column in unique.columns):
                    key = _values(table, unique.columns, row)
                    at = keys.unique(table.id, unique.id, partition, key)
                    assert at not in found, "UNIQUE values twice"
                    found[at] = pk
    return found


def _values(table: TableDef, columns: tuple[int, ...], row: Row) -> bytes:
    types = [table.by_id[column].type for column in columns]
    return keys.encode_key(types, [row.get(column) for column in columns])


@pytest.mark.parametrize("seed", SEEDS)
async def test_entries_are_those_of_the_rows(seed: int) -> None:
    dice = Random(seed)
    history = History()
    for _ in range(STEPS):
        history.run(some_step(dice))
    history.finish()
    world, table = history.world, history.table
    rows = {partition: world.rows(table, partition) for partition in (ALICE, BOB)}
    stored = {
        key: value
        for key, value in world.store.scan(bytes([Family.INDEX]), bytes([Family.UNIQUE + 1]))
        if key[0] in (Family.INDEX, Family.UNIQUE)
    }
    assert stored == expected(table, rows)
