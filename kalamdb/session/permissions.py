"""Who may do what: role × statement × kind of table, as data, and names nobody may take.

`check` is the one gate every statement passes before it is bound, `check_read` the gate of a live
query. Both look at what was parsed and at definitions, never at text and never at rows.

Keeps: isolation of tenants is not decided here. Rows of USER and STREAM tables are found by the
session's own partition whatever its role, so every role reads and writes them; this table says who
reaches SHARED tables, definitions, users and other tenants (by EXECUTE AS and `all_users`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import assert_never

from kalamdb.errors import InvalidDefinition, PermissionDenied
from kalamdb.model.catalog import User
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import AccessLevel, TableDef
from kalamdb.sql.statement import (
    AlterUser,
    CreateNamespace,
    CreateTable,
    CreateUser,
    Delete,
    DescribeTable,
    DropNamespace,
    DropTable,
    DropUser,
    ExecuteAs,
    Explain,
    Insert,
    Select,
    SetOption,
    ShowNamespaces,
    ShowTables,
    Statement,
    SubscribeTo,
    Update,
    UseNamespace,
)

READS_SHARED = {
    AccessLevel.PUBLIC: Role.USER,
    AccessLevel.PRIVATE: Role.SERVICE,
    AccessLevel.RESTRICTED: Role.SERVICE,
    AccessLevel.DBA: Role.DBA,
}
WRITES_SHARED = {
    AccessLevel.PUBLIC: Role.SERVICE,
    AccessLevel.PRIVATE: Role.SERVICE,
    AccessLevel.RESTRICTED: Role.SERVICE,
    AccessLevel.DBA: Role.DBA,
}
CREATES_TABLES = Role.SERVICE
READS_ALL_USERS = Role.DBA


def check(
    principal: Principal,
    statement: Statement,
    tables: Sequence[TableDef],
    *,
    user_ddl: bool = False,
) -> None:
    """May `principal` run `statement` over `tables`? Raises PermissionDenied.

    `tables` are the definitions the statement touches: for INSERT, UPDATE and DELETE the first is
    written and the others are read; for CREATE TABLE the new one, where `user_ddl` lets role user
    make tenant tables.
    """
    match statement:
        case Select():
            if any(name.all_users for name in statement.tables):
                _need(principal, READS_ALL_USERS, "reading all users' rows")
            _check_reads(principal, tables)
        case Insert() | Update() | Delete():
            if tables:
                _check_write(principal, tables[0])
                _check_reads(principal, tables[1:])
        case SubscribeTo():
            check(principal, statement.select, tables)
        case CreateTable():
            tenant_tables = bool(tables) and all(table.is_tenant_scoped for table in tables)
            least = Role.USER if user_ddl and tenant_tables else CREATES_TABLES
            _need(principal, least, "CREATE TABLE")
        case DropTable():
            _need(principal, Role.DBA, "DROP TABLE")
        case CreateNamespace() | DropNamespace():
            _need(principal, Role.DBA, "defining namespaces")
        case CreateUser() | AlterUser():
            _need(principal, Role.DBA, "defining users")
            if statement.role is not None:
                _need(principal, statement.role, f"granting role {statement.role.value}")
        case DropUser():
            _need(principal, Role.DBA, "defining users")
        case Explain():
            _need(principal, Role.DBA, "EXPLAIN")
        case ExecuteAs() | UseNamespace() | SetOption():
            pass  # EXECUTE AS: check_execute_as, then its inner statement
        case ShowNamespaces() | ShowTables() | DescribeTable():
            pass
        case _:
            assert_never(statement)


def check_read(principal: Principal, table: TableDef) -> None:
    """May `principal` read `table` (its own rows of it, where rows have tenants)?"""
    if not table.is_tenant_scoped:
        _need(principal, READS_SHARED[table.options.access_level], f"reading {table.full_name}")


def check_execute_as(principal: Principal, user: str, target: User | None) -> None:
    """May `principal` act as `user`? `target` is the stored user; unknown ones count as role user.

    Role user reaches only itself, the others every role up to their own.
    """
    target_role = Role.USER if target is None else target.role
    if principal.role is Role.USER:
        allowed = user == principal.user
    else:
        allowed = principal.role.at_least(target_role)
    if not allowed:
        needs = Role.SERVICE if principal.role is Role.USER else target_role
        raise PermissionDenied("EXECUTE AS another user", f"role {needs.value}")


def check_user_change(principal: Principal, target: User) -> None:
    """May `principal` alter or drop `target`? Nobody changes a user above themselves."""
    _need(principal, Role.DBA, "defining users")
    _need(principal, target.role, f"changing a user of role {target.role.value}")


def _check_reads(principal: Principal, tables: Sequence[TableDef]) -> None:
    for table in tables:
        check_read(principal, table)


def _check_write(principal: Principal, table: TableDef) -> None:
    if not table.is_tenant_scoped:
        _need(principal, WRITES_SHARED[table.options.access_level], f"writing {table.full_name}")


def _need(principal: Principal, role: Role, action: str) -> None:
    if not principal.role.at_least(role):
        raise PermissionDenied(action, f"role {role.value}")


# ── names ────────────────────────────────────────────────────────────────────────────────────────

_RESERVED_NAMESPACES = """
system sys root kalamdb kalam main default sql admin internal information_schema pg_catalog
datafusion all_users
"""
RESERVED_NAMESPACES = frozenset(_RESERVED_NAMESPACES.split())
RESERVED_USERS = frozenset({"root", "system", "anonymous"})
USER_NAME_LENGTH_MAX = 128
_NAMESPACE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_UNSAFE_IN_USER = re.compile(r"\.\.|[/\\]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_namespace_name(name: str) -> None:
    """May a namespace of this name be made or dropped? Raises InvalidDefinition."""
    if not _NAMESPACE_NAME.fullmatch(name):
        raise InvalidDefinition(
            f"namespace name {name!r}: use 1 to 64 of A-Z a-z 0-9 _ and begin with a letter"
        )
    if name.lower() in RESERVED_NAMESPACES:
        raise InvalidDefinition(f"namespace name {name} is reserved")


def check_user_name(name: str) -> None:
    """May a user of this name be made? Raises InvalidDefinition.

    The name is the tenant's id for ever and goes into paths of files, so it can't leave a folder.
    """
    if not 1 <= len(name) <= USER_NAME_LENGTH_MAX:
        raise InvalidDefinition(f"a user name has 1 to {USER_NAME_LENGTH_MAX} characters")
    if _UNSAFE_IN_USER.search(name) or name != name.strip() or name == ".":
        raise InvalidDefinition(
            f"user name {name!r} may not hold .. / \\ or control characters,"
            " nor begin or end with a space"
        )
    if name.lower() in RESERVED_USERS:
        raise InvalidDefinition(f"user name {name} is reserved")
