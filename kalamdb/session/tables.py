"""Tables in steps: how a definition comes into force, changes and goes.

A definition moves in three steps (core.md §5), so that no group can hold a row of a definition it
does not know:

1. Meta records it *pending*: a new table, or the next version beside the active one.
2. The fence stands in every data group. From then on they refuse what is bound to the version
   before with SchemaChanged, which carries the definition, and the session binds again.
   What is new in it is looked for in the rows from before the fence, in bounded steps; a row that
   is not as it says undoes it: the definition before comes back as a version of its own.
3. Meta makes it *active*; the version before goes into the history.

DROP goes the other way: fences first, so that no group accepts a row of a table that is no longer
listed.

Keeps: a version of a table has one definition for ever; a version is made from the newest one, or
its statement is a Conflict; what a crash left between the steps is finished at the next start, and
until then nobody is told that it was not done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import cast

from kalamdb.errors import (
    Conflict,
    Indeterminate,
    LimitReached,
    SchemaChanged,
    StatementFailed,
    Unavailable,
    UnknownTable,
)
from kalamdb.model import work
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import TableId
from kalamdb.model.table import Column, IndexState, TableDef
from kalamdb.model.work import RequestTag
from kalamdb.ports import DefiningGroups
from kalamdb.sql.alter import check_can_be_undone, unproven
from kalamdb.store.catalog_codec import decode_replaced

Name = tuple[str, str]  # namespace, table


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0


class Turns:
    """Statements that define one name come one after the other on this node; those of other nodes
    meet in the meta group, where the later one is a Conflict.
    """

    def __init__(self) -> None:
        self._turns: dict[Name, _Turn] = {}

    @asynccontextmanager
    async def of(self, *names: Name) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):  # always in this order: two never wait for each other
                turn = self._turns.setdefault(name, _Turn())
                turn.asked += 1
                stack.callback(self._leave, name, turn)
                await stack.enter_async_context(turn.lock)
            yield

    def _leave(self, name: Name, turn: _Turn) -> None:
        turn.asked -= 1
        if not turn.asked:
            del self._turns[name]


class Tables:
    """The steps. Callers hold the turn of the table's name."""

    def __init__(self, groups: DefiningGroups) -> None:
        self._groups = groups
        self.turns = Turns()

    @property
    def _catalog(self) -> CatalogView:
        return self._groups.catalog

    async def create(self, table: TableDef, if_not_exists: bool, tag: RequestTag | None) -> None:
        """Raises AlreadyExists, UnknownNamespace."""
        await self._groups.write_meta(work.DefineTable(table, if_not_exists), tag)
        for pending in self._catalog.pending.values():
            if pending.full_name == table.full_name and pending.version == 1:
                await self._finish(pending)
                return

    async def revise(self, new: TableDef, tag: RequestTag | None = None) -> TableDef:
        """Bring the next version of a table into force; `new.version` is the newest one's + 1.

        Raises Conflict when it was made from an older one, UnknownTable when the table is gone.
        Not one statement fails for it: what is bound to the version before binds again.
        """
        outcome = await self._groups.write_meta(work.DefineTable(new, False), tag)
        pending = self._catalog.pending.get(new.id)
        if pending is not None and _version_of(outcome) == pending.version:
            await self._finish(pending)
        elif self._was_undone(new.id, _version_of(outcome)):
            # A repeat of a request whose definition came to nothing: what it asks for is not there.
            return await self.revise(new)
        return self._catalog.tables_by_id.get(new.id, new)

    async def alter(
        self,
        table: TableDef,
        change: Callable[[TableDef], TableDef],
        tag: RequestTag | None,
    ) -> bool:
        """Bring what `change` makes of the table into force; False when it changes nothing.

        Raises what `change` raises, Conflict, UnknownTable, and of rows that are not as the new
        definition says NotNullViolation, CheckViolation, IndexNotUnique: then all is as before.
        """
        left = self._catalog.pending.get(table.id)
        if left is not None:
            await self._finish_left(left)  # of a statement that was cut off
        try:
            new = change(self._catalog.tables_by_id.get(table.id, table))
        except StatementFailed:
            if tag is not None and await self._was_done(tag):
                return True
            raise
        if new is table:
            return False
        check_can_be_undone(self._catalog.tables_by_id.get(table.id, table), new)
        await self.revise(new, tag)
        return True

    async def _was_done(self, tag: RequestTag) -> bool:
        """A repeat of a request that came through fails on what it did itself."""
        try:
            outcome = await self._groups.write_meta(work.RecallRequest(), tag)
        except Conflict:
            return False
        assert outcome.rows is not None
        return not self._was_undone(TableId(cast(int, outcome.rows[0][0])), _version_of(outcome))

    def _was_undone(self, table: TableId, version: int) -> bool:
        """Did a definition that was pending give way to the one before it? Raises Indeterminate
        when that is not settled.
        """
        active = self._catalog.tables_by_id.get(table)
        replaced = self._catalog.history.get(table, {})
        if active is None or active.version == version or version in replaced:
            return False
        known = {number: raw for number, raw in replaced.items() if number < version}
        if active.version == version + 1:
            after = active
        elif version + 1 in replaced:
            after = decode_replaced(replaced[version + 1]).table
        else:
            raise Indeterminate(f"version {version} of {active.full_name} is on its way")
        if not known:
            raise Indeterminate(f"the history of {active.full_name} does not reach back so far")
        return _is_same(decode_replaced(known[max(known)]).table, after)

    async def _finish(self, table: TableDef) -> None:
        """Steps 2 and 3 of what is pending; harmless when another node does the same.

        Raises Indeterminate when they stop on the way: meta knows the definition, so somebody
        will go on.
        """
        try:
            await self._groups.write_everywhere(work.PutFence(table))
            active = self._catalog.tables_by_id.get(table.id)
            if active is not None and active.version < table.version:
                table = await self._prove(active, table)
            await self._groups.write_meta(work.ActivateTable(table.id, table.version))
        except (Unavailable, Conflict, SchemaChanged) as error:
            reason = f"the definition of {table.full_name} is on its way ({error})"
            raise Indeterminate(reason) from error

    async def _prove(self, active: TableDef, table: TableDef) -> TableDef:
        """Look at the rows from before the fence for what is new in the definition; those after it
        keep it already. Gives the version to activate.

        Raises what a row violates, when the definition is undone.
        """
        proof = unproven(active, table)
        try:
            if proof.columns or proof.checks:
                await self._groups.step_everywhere(
                    lambda after: work.CheckRows(table, proof.columns, proof.checks, after)
                )
            for number in proof.indexes:
                await self._build(table, number)
        except (StatementFailed, LimitReached, asyncio.CancelledError):
            back = replace(
                active,
                columns=_typed_as(active, table),
                version=table.version + 1,
                next_column_id=table.next_column_id,
                next_index_id=table.next_index_id,
            )
            await self._advance(back)
            await self._groups.write_meta(work.ActivateTable(back.id, back.version))
            raise
        if not proof.indexes:
            return table
        uniques = tuple(replace(one, state=IndexState.READY) for one in table.uniques)
        indexes = tuple(replace(one, state=IndexState.READY) for one in table.indexes)
        ready = replace(table, uniques=uniques, indexes=indexes, version=table.version + 1)
        await self._advance(ready)
        return ready

    async def _build(self, table: TableDef, index: int) -> None:
        await self._groups.step_everywhere(lambda after: work.BuildIndex(table, index, after))

    async def _advance(self, table: TableDef) -> None:
        """The pending definition gives way to the next one."""
        await self._groups.write_meta(work.DefineTable(table, False))
        await self._groups.write_everywhere(work.PutFence(table))

    async def _finish_left(self, table: TableDef) -> None:
        """Raises Unavailable when it cannot be finished now."""
        try:
            with suppress(StatementFailed, LimitReached):  # undone; its statement has no answer
                await self._finish(table)
        except Indeterminate as error:
            raise Unavailable(str(error)) from error

    async def finish_pending(self) -> int:
        """Complete (or undo, when rows are not as it says) definitions that a crash left between
        their steps, and drops that reached some groups only; returns how many.
        """
        pending = list(self._catalog.pending.values())
        for table in pending:
            await self._finish_left(table)
        dropped = 0
        for table in list(self._catalog.tables_by_id.values()):
            try:
                await self._groups.write_everywhere(work.PutFence(table))
            except UnknownTable:
                await self.drop(table)
                dropped += 1
        return len(pending) + dropped

    async def drop(self, table: TableDef) -> None:
        """Raises Indeterminate when it stops on the way; then a repeat, or the next start, goes
        on.
        """
        try:
            await self._groups.write_everywhere(work.PutFence(table, dropped=True))
            await self._groups.write_meta(work.DropTable(table.id))
        except Unavailable as error:
            raise Indeterminate(f"{table.full_name} is being dropped ({error})") from error


def _version_of(outcome: Outcome) -> int:
    """Of the definition that DefineTable recorded."""
    assert outcome.rows is not None
    return cast(int, outcome.rows[0][1])


def _typed_as(table: TableDef, other: TableDef) -> tuple[Column, ...]:
    """The columns with the types they have in `other`. A type that was widened stays so when its
    statement is undone: rows may need it already.
    """
    return tuple(
        replace(column, type=other.by_id[column.id].type) if column.id in other.by_id else column
        for column in table.columns
    )


def _is_same(one: TableDef, other: TableDef) -> bool:
    """Is `other` what undoing gives back of `one`? Numbers that were given out may differ."""
    return other == replace(
        one,
        columns=_typed_as(one, other),
        version=other.version,
        next_column_id=other.next_column_id,
        next_index_id=other.next_index_id,
    )
