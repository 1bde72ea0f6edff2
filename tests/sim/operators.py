"""Operators: they define tables, columns, constraints, indexes and views while others write.

1. A statement is drawn from what some member's catalog shows, and sent to the leader of the meta
   group as far as known; there the product's own session code carries it out.
2. Its steps reach the data groups' leaders over connections between members, which break.
3. The answer is entered with what is to be seen of the statement in the catalog.

Keeps: a name is used by one statement only, so what is seen of it is this statement's doing; a
statement nobody answered is `UNKNOWN`, unless a retry was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import cast

from kalamdb.errors import (
    CheckViolation,
    Conflict,
    Indeterminate,
    IndexNotUnique,
    InvalidInput,
    KalamError,
    LimitReached,
    NotNullViolation,
    Unavailable,
)
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import IndexState, TableDef
from kalamdb.model.work import BuildIndex, CheckRows, RequestTag, Work
from kalamdb.session.ddl import Definition
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import CreateView
from tests.sim import calls
from tests.sim.calls import Calls, Lost, Refused
from tests.sim.history import OPEN_END_S, Result
from tests.sim.member import Member
from tests.sim.rows import COLUMNS, MARK_COLUMN, younger
from tests.sim.timeline import Timeline

META = 0
MAIN = ("sim", "lists")
OPERATOR = Principal.of("operator", Role.SYSTEM)
STATEMENT_TIMEOUT_S = 5.0
STEP_ROWS = 7
FORWARDS_MAX = 4
YOUNGER_MAX = 5
INDEXES_MAX = 4

Seen = Callable[[CatalogView], bool]


class RoutedGroups:
    """What a member's session code asks of the groups: the meta group here, the others at their
    leaders. Implements the part of `ports.DefiningGroups` that definitions use.
    """

    def __init__(self, member: Member, dice: Random) -> None:
        self._member = member
        self._dice = dice
        self._calls = Calls(member.world.timeline, dice, member.loop)
        self._leaders: dict[int, int] = {}

    @property
    def catalog(self) -> CatalogView:
        return self._member.replicas[META].catalog

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        return calls.write(self._member, META, work, tag)

    async def write_everywhere(self, work: Work) -> None:
        groups = [group for group in self._member.stores if group != META]
        await asyncio.gather(*(self._forward(group, work) for group in groups))

    async def step_everywhere(self, step: Callable[[bytes], Work]) -> None:
        for group in (group for group in self._member.stores if group != META):
            after: str | None = ""
            while after is not None:
                asked = step(bytes.fromhex(after))
                assert isinstance(asked, BuildIndex | CheckRows)
                outcome = await self._forward(group, replace(asked, rows_max=STEP_ROWS))
                assert outcome.rows is not None
                after = cast("str | None", outcome.rows[0][0])

    async def _forward(self, group: int, work: Work) -> Outcome:
        """Raises what the group answers; Unavailable or Indeterminate when it does not."""
        maybe = False
        world = self._member.world
        for _ in range(FORWARDS_MAX):
            node = self._leaders.get(group) or self._dice.choice(sorted(world.members))
            target = world.members[node]
            try:
                if target is not self._member and not world.network.reaches(
                    self._member.node, node
                ):
                    raise Refused
                outcome = await self._calls.call(
                    target, lambda there: calls.write(there, group, work, None)
                )
                self._leaders[group] = node
                return outcome
            except (Refused, Unavailable):
                self._leaders.pop(group, None)
            except (Lost, Indeterminate):
                self._leaders.pop(group, None)
                maybe = True
            await self._member.pause(self._dice.uniform(0.02, 0.15))
        if maybe:
            raise Indeterminate(f"group {group} did not answer")
        raise Unavailable(f"group {group} has no leader")


@dataclass(slots=True)
class Statement:
    """One statement of an operator. `seen` holds of a catalog in which it is in force; `alone`
    says that no other statement can make it hold.
    """

    number: int
    sql: str
    seen: Seen
    start_s: float
    alone: bool = True
    end_s: float = OPEN_END_S
    result: Result = Result.UNKNOWN
    answer: str = ""
    was_undone: bool = False  # rows were not as it says


@dataclass(slots=True)
class Office:
    """What operators share."""

    timeline: Timeline
    dice: Random
    calls: Calls
    members: dict[int, Member]
    statements: list[Statement] = field(default_factory=list[Statement])
    taken: set[str] = field(default_factory=set[str])  # names a statement has taken away
    tables: list[str] = field(default_factory=list[str])  # beside the main one
    views: list[str] = field(default_factory=list[str])
    leader: int = 1
    closed: bool = False
    carry_out: Callable[[Member, Definition, RequestTag], Awaitable[str]] = field(
        default=lambda member, statement, tag: _nobody()
    )


async def _nobody() -> str:
    raise AssertionError("nobody carries out statements")


async def operate(office: Office) -> None:
    """One operator, until the office closes."""
    dice = office.dice
    while not office.closed:
        await office.calls.pause(dice.uniform(0.0, 0.25))
        up = [member for member in office.members.values() if member.up]
        if not up or office.closed:
            continue
        catalog = dice.choice(up).replicas[META].catalog
        table = catalog.tables.get(MAIN)
        if table is None:
            continue
        number = len(office.statements) + 1
        drawn = draw(office, table, number)
        if drawn is not None:
            statement = Statement(number, *drawn[:2], office.timeline.now_s, drawn[2])
            await perform(office, statement)


async def perform(office: Office, statement: Statement) -> None:
    """Do it, with retries under one request id, and enter the answer."""
    office.statements.append(statement)
    parsed = parse(statement.sql)[0]
    if isinstance(parsed, CreateView):
        parsed = replace(parsed, found=("id",))
    number = b"%8d" % statement.number
    tag = RequestTag("operator", "operator", f"op-{statement.number}", 1, number)
    maybe = False
    for _ in range(4):
        result = await attempt(office, statement, cast(Definition, parsed), tag)
        if result is Result.UNKNOWN:
            maybe = True
            if office.dice.random() < 0.4:
                break
        elif result is not Result.FAILED or statement.answer == "refused":
            break
        if office.closed:
            break
        await office.calls.pause(office.dice.uniform(0.02, 0.3))
    # A refusal is of the last attempt; an earlier one may still have been carried out.
    statement.result = Result.UNKNOWN if maybe and result is not Result.OK else result
    statement.end_s = office.timeline.now_s
    office.timeline.note(f"statement {statement.number} {statement.result.name}")


async def attempt(
    office: Office, statement: Statement, parsed: Definition, tag: RequestTag
) -> Result:
    if office.dice.random() < 0.15:
        office.leader = office.dice.choice(sorted(office.members))
    member = office.members[office.leader]
    statement.answer = ""
    try:
        await office.calls.call(
            member,
            lambda there: office.carry_out(there, parsed, tag),
            timeout_s=STATEMENT_TIMEOUT_S,
        )
        return Result.OK
    except Refused:
        office.leader = office.dice.choice(sorted(office.members))
        return Result.FAILED
    except Lost:
        return Result.UNKNOWN
    except KalamError as error:
        office.timeline.note(f"statement {statement.number} {type(error).__name__}: {error}")
        return result_of(office, statement, error)


def result_of(office: Office, statement: Statement, error: KalamError) -> Result:
    match error:
        case Unavailable() | Conflict():
            office.leader = office.dice.choice(sorted(office.members))
            return Result.FAILED
        case Indeterminate():
            return Result.UNKNOWN
        case InvalidInput() | LimitReached():
            undone = (CheckViolation, NotNullViolation, IndexNotUnique)
            statement.answer, statement.was_undone = "refused", isinstance(error, undone)
            return Result.FAILED
        case _:
            raise error


# What is drawn: the text, what is seen of it, and whether nothing else can make that so.

Drawn = tuple[str, Seen, bool]


def draw(office: Office, table: TableDef, number: int) -> Drawn | None:
    dice = office.dice
    kinds: list[tuple[Callable[[Office, TableDef, int], Drawn | None], int]] = [
        (add_column, 4),
        (drop_column, 2),
        (rename_column, 2),
        (create_index, 6),
        (drop_index, 4),
        (not_null, 3),
        (add_check, 3),
        (drop_check, 2),
        (two_changes, 3),
        (create_table, 3),
        (drop_table, 3),
        (create_view, 1),
        (drop_view, 1),
    ]
    return dice.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0](
        office, table, number
    )


def main_has(holds: Callable[[TableDef], bool]) -> Seen:
    def seen(catalog: CatalogView) -> bool:
        table = catalog.tables.get(MAIN)
        return table is not None and holds(table)

    return seen


def take(office: Office, names: list[str]) -> str | None:
    """One that no statement has taken away; it is this statement's."""
    free = [name for name in names if name not in office.taken]
    if not free:
        return None
    name = office.dice.choice(free)
    office.taken.add(name)
    return name


def add_column(office: Office, table: TableDef, number: int) -> Drawn | None:
    if len(younger(table)) >= YOUNGER_MAX:
        return None
    name = f"c{number}"
    tail = office.dice.choice(("", f" DEFAULT {number}", f" DEFAULT {number} NOT NULL"))
    text = f"ALTER TABLE sim.lists ADD COLUMN {name} BIGINT{tail}"
    return text, main_has(lambda now: name in now.by_name), True


def drop_column(office: Office, table: TableDef, number: int) -> Drawn | None:
    if len(younger(table)) < 2:
        return None
    name = take(office, [column.name for column in younger(table)])
    if name is None:
        return None
    text = f"ALTER TABLE sim.lists DROP COLUMN {name} CASCADE"
    return text, main_has(lambda now: name not in now.by_name), True


def rename_column(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = take(office, [column.name for column in younger(table)])
    if name is None:
        return None
    text = f"ALTER TABLE sim.lists RENAME COLUMN {name} TO r{number}"
    return text, main_has(lambda now: f"r{number}" in now.by_name), True


def indexes_of(table: TableDef) -> dict[str, IndexState]:
    return {index.name: index.state for index in (*table.indexes, *table.uniques)}


def create_index(office: Office, table: TableDef, number: int) -> Drawn | None:
    if len(indexes_of(table)) >= INDEXES_MAX:
        return None
    dice = office.dice
    names = ["badge", "badge", "mark", *(column.name for column in younger(table))]
    columns = list(dict.fromkeys(dice.choices(names, k=dice.choice((1, 1, 2)))))
    unique = "UNIQUE " if dice.random() < 0.5 else ""
    text = f"CREATE {unique}INDEX i{number} ON sim.lists ({', '.join(columns)})"
    return (
        text,
        main_has(lambda now: indexes_of(now).get(f"i{number}") is IndexState.READY),
        True,
    )


def drop_index(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = take(office, sorted(indexes_of(table)))
    if name is None:
        return None
    # The column it is on may have been dropped, and the index with it.
    return f"DROP INDEX sim.{name}", main_has(lambda now: name not in indexes_of(now)), False


def not_null(office: Office, table: TableDef, number: int) -> Drawn | None:
    column = office.dice.choice((table.by_id[MARK_COLUMN], *younger(table)))
    word = "SET" if column.nullable else "DROP"
    text = f"ALTER TABLE sim.lists ALTER COLUMN {column.name} {word} NOT NULL"

    def seen(now: TableDef) -> bool:
        found = now.by_name.get(column.name)
        return found is not None and found.nullable != column.nullable

    return text, main_has(seen), False


def add_check(office: Office, table: TableDef, number: int) -> Drawn | None:
    if len(table.checks) >= 3:
        return None
    bound = office.dice.choice((70, 97, 100, 120))
    text = f"ALTER TABLE sim.lists ADD CONSTRAINT k{number} CHECK (mark < {bound})"
    return text, main_has(lambda now: f"k{number}" in {one.name for one in now.checks}), True


def drop_check(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = take(office, [check.name for check in table.checks])
    if name is None:
        return None
    text = f"ALTER TABLE sim.lists DROP CONSTRAINT {name}"
    return text, main_has(lambda now: name not in {one.name for one in now.checks}), True


def two_changes(office: Office, table: TableDef, number: int) -> Drawn | None:
    """One statement that takes something away and adds what the rows may not keep."""
    dice = office.dice
    gone: list[str] = []
    for check in table.checks:
        gone.append(f"DROP CONSTRAINT {check.name}")
    for column in younger(table):
        gone.append(f"DROP COLUMN {column.name} CASCADE")
        if not column.nullable:
            gone.append(f"ALTER COLUMN {column.name} DROP NOT NULL")
    if not table.by_id[MARK_COLUMN].nullable:
        gone.append("ALTER COLUMN mark DROP NOT NULL")
    gone = [text for text in gone if text.split()[2] not in office.taken]
    if not gone:
        return None
    first = dice.choice(gone)
    if not first.startswith("ALTER"):
        office.taken.add(first.split()[2])
    bound = dice.choice((50, 97, 120))
    text = f"ALTER TABLE sim.lists {first}, ADD CONSTRAINT k{number} CHECK (mark < {bound})"
    return text, main_has(lambda now: f"k{number}" in {one.name for one in now.checks}), True


def create_table(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = f"t{number}"
    office.tables.append(name)
    kind = office.dice.choice(("TYPE = 'USER'", "TYPE = 'STREAM', TTL_SECONDS = 1"))
    text = f"CREATE TABLE sim.{name} ({COLUMNS}) WITH ({kind})"
    return text, lambda catalog: ("sim", name) in catalog.tables, True


def drop_table(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = take(office, office.tables[:-1])
    if name is None:
        return None
    return f"DROP TABLE sim.{name}", lambda catalog: ("sim", name) not in catalog.tables, True


def create_view(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = f"w{number}"
    office.views.append(name)
    text = f"CREATE VIEW sim.{name} AS SELECT id FROM sim.lists"
    return text, lambda catalog: ("sim", name) in catalog.views, True


def drop_view(office: Office, table: TableDef, number: int) -> Drawn | None:
    name = take(office, office.views)
    if name is None:
        return None
    return f"DROP VIEW sim.{name}", lambda catalog: ("sim", name) not in catalog.views, True
