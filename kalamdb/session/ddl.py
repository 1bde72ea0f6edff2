"""Carrying out definitions: namespaces, tables, users. `tables.py` has the steps of a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

from kalamdb.errors import (
    InvalidDefinition,
    UnknownNamespace,
    UnknownTable,
    UnknownUser,
)
from kalamdb.lib.clock import Clock
from kalamdb.model import work
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag
from kalamdb.ports import DefiningGroups
from kalamdb.session import indexes, permissions
from kalamdb.session.tables import Tables
from kalamdb.session.views import (
    create_view,
    drop_view,
    forget_views,
    rests_on_it,
    with_views,
)
from kalamdb.sql import ddl
from kalamdb.sql.alter import altered_table, unproven
from kalamdb.sql.alter_namespace import OPTIONS_MAX
from kalamdb.sql.alter_table import RenameTable
from kalamdb.sql.statement import (
    AlterNamespace,
    AlterTable,
    AlterUser,
    CreateIndex,
    CreateNamespace,
    CreateTable,
    CreateUser,
    CreateView,
    DropIndex,
    DropNamespace,
    DropTable,
    DropUser,
    DropView,
    Statement,
    SubscribeTo,
    TableName,
)
from kalamdb.sql.views import check_views_stay, dependents

Definition = (
    CreateNamespace
    | DropNamespace
    | AlterNamespace
    | CreateTable
    | AlterTable
    | DropTable
    | CreateView
    | DropView
    | CreateIndex
    | DropIndex
    | CreateUser
    | AlterUser
    | DropUser
)


class HasNamespace(Protocol):
    @property
    def namespace(self) -> str: ...


class Definitions:
    """Executes DDL for sessions; `hash_password` runs off the loop and checks the password
    rules.
    """

    def __init__(
        self,
        groups: DefiningGroups,
        clock: Clock,
        hash_password: Callable[[str, str], Awaitable[str]],
        *,
        user_ddl: bool = False,
    ) -> None:
        self.user_ddl = user_ddl
        self._groups = groups
        self._clock = clock
        self._hash_password = hash_password
        self.tables = Tables(groups)

    def require_namespace(self, name: str) -> None:
        if name not in self._groups.catalog.namespaces:
            raise UnknownNamespace(name)

    def tables_of(self, statement: Statement, run: HasNamespace) -> tuple[TableDef, ...]:
        """The tables a statement touches or makes, for the permission check."""
        match statement:
            case CreateTable():
                return (ddl.table_definition(statement, run.namespace, self._clock.wall_ms()),)
            case SubscribeTo(select=select):
                found = (self._find(name, run.namespace) for name in select.tables)
                return tuple(table for table in found if table is not None)
            case DropIndex():
                found = indexes.table_of(self._groups.catalog, statement, run.namespace)
                return () if found is None else (found,)
            case DropTable(table=name) | AlterTable(table=name) | CreateIndex(table=name):
                found = self._find(name, run.namespace)
                return () if found is None else (found,)
            case _:
                return ()

    def _find(self, name: TableName, namespace: str) -> TableDef | None:
        return self._groups.catalog.tables.get((name.namespace or namespace, name.name))

    async def carry_out(
        self,
        principal: Principal,
        statement: Definition,
        namespace: str,
        tag: RequestTag | None,
    ) -> str:
        """Runs a definition; returns what to tell the client."""
        match statement:
            case CreateNamespace():
                permissions.check_namespace_name(statement.name)
                made = work.CreateNamespace(statement.name, statement.if_not_exists)
                outcome = await self._groups.write_meta(made, tag)
                state = "created" if outcome.affected else "already exists"
                return f"namespace {statement.name} {state}"
            case DropNamespace():
                return await self._drop_namespace(statement, tag)
            case AlterNamespace():
                return await self._alter_namespace(statement, tag)
            case CreateTable():
                return await self._create_table(statement, namespace, tag)
            case AlterTable():
                return await self._alter_table(principal, statement, namespace, tag)
            case CreateIndex():
                return await indexes.create_index(
                    self._groups, self.tables, statement, namespace, tag
                )
            case DropIndex():
                return await indexes.drop_index(
                    self._groups, self.tables, statement, namespace, tag
                )
            case DropTable():
                return await self._drop_table(statement, namespace)
            case CreateView():
                now_ms = self._clock.wall_ms()
                return await create_view(self._groups, statement, namespace, now_ms, tag)
            case DropView():
                return await drop_view(self._groups, statement, namespace, tag)
            case CreateUser():
                return await self._create_user(statement, tag)
            case AlterUser():
                return await self._alter_user(principal, statement, tag)
            case DropUser():
                self._check_user_change(principal, statement.name)
                gone = work.DropUser(statement.name, statement.if_exists)
                outcome = await self._groups.write_meta(gone, tag)
                state = "dropped" if outcome.affected else "does not exist"
                return f"user {statement.name} {state}"
            case _:
                assert_never(statement)

    # ---- tables ---------------------------------------------------------------------------------

    async def _create_table(
        self, statement: CreateTable, namespace: str, tag: RequestTag | None
    ) -> str:
        table = ddl.table_definition(statement, namespace, self._clock.wall_ms())
        name = table.full_name
        self.require_namespace(table.namespace)
        if statement.if_not_exists and (table.namespace, table.name) in self._groups.catalog.tables:
            return f"table {name} already exists"
        async with self.tables.turns.of((table.namespace, table.name)):
            await self.tables.create(table, statement.if_not_exists, tag)
        return f"{table.kind.value} table {name} created"

    async def _alter_table(
        self, principal: Principal, statement: AlterTable, namespace: str, tag: RequestTag | None
    ) -> str:
        home, name = statement.table.namespace or namespace, statement.table.name
        renamed = [
            (home, change.new) for change in statement.changes if isinstance(change, RenameTable)
        ]
        async with self.tables.turns.of((home, name), *renamed):
            found = self._find(statement.table, namespace)
            if found is None:
                if statement.if_exists:
                    return f"table {home}.{name} does not exist"
                found = self._groups.catalog.table(home, name)
            now_ms = self._clock.wall_ms()

            def change(table: TableDef) -> TableDef:
                new = altered_table(table, statement.changes, now_ms)
                check_views_stay(table, new, self._groups.catalog)
                permissions.check_alter(principal, table, new)
                if unproven(table, new).looks_at_rows:
                    permissions.check_proves(principal)
                return new

            done = await self.tables.alter(found, change, tag)
        return f"table {found.full_name} {'altered' if done else 'is as asked already'}"

    async def revise(self, new: TableDef, tag: RequestTag | None = None) -> TableDef:
        """See `Tables.revise`; inside `tables.turns.of` the table's name."""
        return await self.tables.revise(new, tag)

    async def finish_pending(self) -> int:
        """Complete definitions that a crash left between their steps; returns how many."""
        return await self.tables.finish_pending()

    async def _drop_table(self, statement: DropTable, namespace: str) -> str:
        found = self._find(statement.table, namespace)
        if found is None:
            where = statement.table.namespace or namespace
            if statement.if_exists:
                return f"table {where}.{statement.table.name} does not exist"
            self.require_namespace(where)
            raise UnknownTable(f"{where}.{statement.table.name}")
        async with self.tables.turns.of((found.namespace, found.name)):
            above = dependents(self._groups.catalog, tables=(found.id,))
            if above and not statement.cascade:
                raise rests_on_it(f"table {found.full_name}", above)
            if above:
                await forget_views(self._groups, above)
            await self.tables.drop(found)
        return f"table {found.full_name} dropped{with_views(above)}"

    # ---- namespaces and users -------------------------------------------------------------------

    async def _drop_namespace(self, statement: DropNamespace, tag: RequestTag | None) -> str:
        name = statement.name
        permissions.check_namespace_name(name)
        catalog = self._groups.catalog
        inside = [table for table in catalog.tables.values() if table.namespace == name]
        views = [view for view in catalog.views.values() if view.namespace == name]
        if not statement.cascade:
            catalog.check_empty(name)
        above = dependents(
            catalog,
            tables=[table.id for table in inside],
            views=[view.id for view in views],
        )
        gone = {view.id: view for view in (*views, *above)}
        if gone:
            await forget_views(self._groups, list(gone.values()))
        for table in inside:
            async with self.tables.turns.of((table.namespace, table.name)):
                await self.tables.drop(table)
        outcome = await self._groups.write_meta(work.DropNamespace(name, statement.if_exists), tag)
        if not outcome.affected:
            return f"namespace {name} does not exist"
        parts = [(len(inside), "tables"), (len(gone), "views")]
        what = " and ".join(f"{count} {kind}" for count, kind in parts if count)
        return f"namespace {name} dropped{f' with {what}' if what else ''}"

    async def _alter_namespace(self, statement: AlterNamespace, tag: RequestTag | None) -> str:
        self.require_namespace(statement.name)
        known = self._groups.catalog.namespaces[statement.name].options
        merged = {**known, **statement.options}
        options = {key: value for key, value in merged.items() if value is not None}
        if len(options) > OPTIONS_MAX:
            raise InvalidDefinition(f"a namespace has at most {OPTIONS_MAX} options")
        await self._groups.write_meta(work.PutNamespace(statement.name, options), tag)
        return f"namespace {statement.name} altered"

    async def _create_user(self, statement: CreateUser, tag: RequestTag | None) -> str:
        permissions.check_user_name(statement.name)
        if statement.identity is not None:
            permissions.check_identity(statement.name, statement.identity)
        hashed = ""
        if statement.password is not None:
            hashed = await self._hash_password(statement.name, statement.password)
        made = work.PutUser(
            statement.name,
            create=True,
            password_hash=hashed,
            role=statement.role.value,
            email=statement.email,
            if_not_exists=statement.if_not_exists,
            identity=statement.identity,
            reuse=statement.reuse_data,
        )
        outcome = await self._groups.write_meta(made, tag)
        return f"user {statement.name} {'created' if outcome.affected else 'already exists'}"

    def _check_user_change(self, principal: Principal, name: str) -> None:
        target = self._groups.catalog.users.get(name)
        if target is not None:
            permissions.check_user_change(principal, target)

    async def _alter_user(
        self, principal: Principal, statement: AlterUser, tag: RequestTag | None
    ) -> str:
        if statement.name not in self._groups.catalog.users:
            raise UnknownUser(statement.name)
        if not permissions.is_own_password(principal, statement):
            self._check_user_change(principal, statement.name)
        hashed = None
        if statement.password is not None:
            hashed = await self._hash_password(statement.name, statement.password)
        changed = work.PutUser(
            statement.name,
            create=False,
            password_hash=hashed,
            role=None if statement.role is None else statement.role.value,
            email=statement.email,
        )
        await self._groups.write_meta(changed, tag)
        return f"user {statement.name} changed"
