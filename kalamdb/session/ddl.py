"""Carrying out definitions: namespaces, tables, users.

A table's definition moves in three steps (core.md §5), so that no group can hold a row of a
definition it does not know: meta records it *pending* → the fence stands in every data group → meta
makes it *active* → answer. A crash in between leaves a pending record, which the meta leader
finishes at start. DROP goes the other way: fences first, so that no group accepts a row of a table
that is no longer listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

from kalamdb.errors import NamespaceNotEmpty, UnknownNamespace, UnknownTable, UnknownUser
from kalamdb.lib.clock import Clock
from kalamdb.model import work
from kalamdb.model.catalog import CatalogView
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag
from kalamdb.ports import Groups
from kalamdb.session import permissions
from kalamdb.sql import ddl
from kalamdb.sql.statement import (
    AlterUser,
    CreateNamespace,
    CreateTable,
    CreateUser,
    DropNamespace,
    DropTable,
    DropUser,
    Statement,
    SubscribeTo,
    TableName,
)

Definition = (
    CreateNamespace | DropNamespace | CreateTable | DropTable | CreateUser | AlterUser | DropUser
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
        groups: Groups,
        clock: Clock,
        hash_password: Callable[[str, str], Awaitable[str]],
        *,
        user_ddl: bool = False,
    ) -> None:
        self.user_ddl = user_ddl
        self._groups = groups
        self._clock = clock
        self._hash_password = hash_password
        # A table is defined and dropped in steps, and two statements about one name would take away
        # each other's: here they come one after the other, from other nodes as a Conflict.
        self._turn = asyncio.Lock()

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
            case DropTable(table=name):
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
                async with self._turn:
                    return await self._drop_namespace(statement, tag)
            case CreateTable():
                async with self._turn:
                    return await self._create_table(statement, namespace, tag)
            case DropTable():
                async with self._turn:
                    return await self._drop_table(statement, namespace)
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
        await self._groups.write_meta(work.DefineTable(table, statement.if_not_exists), tag)
        pending = self._pending(self._groups.catalog, table.namespace, table.name)
        if pending is not None:
            await self._finish(pending)
        return f"{table.kind.value} table {name} created"

    def _pending(self, catalog: CatalogView, namespace: str, name: str) -> TableDef | None:
        for table in catalog.pending.values():
            if (table.namespace, table.name) == (namespace, name):
                return table
        return None

    async def _finish(self, table: TableDef) -> None:
        await self._groups.write_everywhere(work.PutFence(table))
        await self._groups.write_meta(work.ActivateTable(table.id, table.version))

    async def finish_pending(self) -> int:
        """Complete definitions that a crash left between their steps; returns how many."""
        pending = list(self._groups.catalog.pending.values())
        for table in pending:
            await self._finish(table)
        return len(pending)

    async def _drop_table(self, statement: DropTable, namespace: str) -> str:
        found = self._find(statement.table, namespace)
        if found is None:
            where = statement.table.namespace or namespace
            if statement.if_exists:
                return f"table {where}.{statement.table.name} does not exist"
            self.require_namespace(where)
            raise UnknownTable(f"{where}.{statement.table.name}")
        await self._drop(found)
        return f"table {found.full_name} dropped"

    async def _drop(self, table: TableDef) -> None:
        await self._groups.write_everywhere(work.PutFence(table, dropped=True))
        await self._groups.write_meta(work.DropTable(table.id))

    # ---- namespaces and users -------------------------------------------------------------------

    async def _drop_namespace(self, statement: DropNamespace, tag: RequestTag | None) -> str:
        name = statement.name
        permissions.check_namespace_name(name)
        catalog = self._groups.catalog
        inside = [table for table in catalog.tables.values() if table.namespace == name]
        if inside and not statement.cascade:
            raise NamespaceNotEmpty(name, len(inside))
        for table in inside:
            await self._drop(table)
        outcome = await self._groups.write_meta(work.DropNamespace(name, statement.if_exists), tag)
        if not outcome.affected:
            return f"namespace {name} does not exist"
        with_tables = f" with {len(inside)} tables" if inside else ""
        return f"namespace {name} dropped{with_tables}"

    async def _create_user(self, statement: CreateUser, tag: RequestTag | None) -> str:
        permissions.check_user_name(statement.name)
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
