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

from kalamdb.config import check_endpoint
from kalamdb.errors import InvalidDefinition, PermissionDenied
from kalamdb.model.catalog import DEFAULT_NAMESPACE, RESERVED_NAMESPACES, Identity, User
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import AccessLevel, TableDef
from kalamdb.sql.statement import (
    AlterNamespace,
    AlterTable,
    AlterUser,
    Begin,
    Cluster,
    Commit,
    CreateIndex,
    CreateNamespace,
    CreateTable,
    CreateUser,
    CreateView,
    Delete,
    DescribeTable,
    DropIndex,
    DropNamespace,
    DropTable,
    DropUser,
    DropView,
    ExecuteAs,
    Explain,
    Insert,
    Kill,
    ReleaseSavepoint,
    Rollback,
    RollbackTo,
    Savepoint,
    Select,
    SetOption,
    SetTransaction,
    ShowCreate,
    ShowIndexes,
    ShowNamespaces,
    ShowOngoing,
    ShowSettings,
    ShowStats,
    ShowTables,
    ShowUsers,
    Statement,
    SubscribeTo,
    Update,
    UseNamespace,
)
from kalamdb.sql.virtual import VirtualTable

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
                check_reads_all(principal)
            _check_reads(principal, tables)
        case Insert() | Update() | Delete():
            if tables:
                _check_write(principal, tables[0])
                _check_reads(principal, tables[1:])
        case SubscribeTo():
            check(principal, statement.select, tables)
        case CreateTable():
            _need(principal, _defines(tables, user_ddl), "CREATE TABLE")
        case AlterTable():
            _need(principal, _defines(tables, user_ddl), "ALTER TABLE")
            for table in tables:
                _check_write(principal, table)
        case CreateIndex() | DropIndex():
            _check_index(principal, statement, _defines(tables, user_ddl))
            for table in tables:
                _check_write(principal, table)
        case DropTable():
            _need(principal, Role.DBA, "DROP TABLE")
        case CreateView() | DropView():
            _need(principal, Role.DBA, "defining views")
        case CreateNamespace() | DropNamespace() | AlterNamespace():
            _need(principal, Role.DBA, "defining namespaces")
        case CreateUser() | AlterUser() | DropUser():
            _check_users(principal, statement)
        case Explain():
            _need(principal, Role.DBA, "EXPLAIN")
        case Begin() | SetTransaction() | Commit() | Rollback():
            pass
        case Savepoint() | ReleaseSavepoint() | RollbackTo():
            pass
        case ExecuteAs() | UseNamespace() | SetOption():
            pass  # EXECUTE AS: check_execute_as, then its inner statement
        case ShowNamespaces() | ShowTables() | DescribeTable() | ShowIndexes():
            pass
        case ShowCreate() | ShowStats() | Kill() | ShowOngoing():
            pass  # `table_facts` and `activity` look at what the session may see, and end
        case Cluster():
            _need(principal, Role.DBA, "administering the cluster")
        case ShowUsers() | ShowSettings():
            _need(principal, Role.DBA, "reading users and settings")
        case _:
            assert_never(statement)


def _defines(tables: Sequence[TableDef], user_ddl: bool) -> Role:
    """The least role that defines these tables."""
    tenant_tables = bool(tables) and all(table.is_tenant_scoped for table in tables)
    return Role.USER if user_ddl and tenant_tables else CREATES_TABLES


def _check_index(principal: Principal, statement: CreateIndex | DropIndex, needed: Role) -> None:
    _need(principal, needed, "defining indexes")
    if isinstance(statement, CreateIndex) and statement.unique:
        check_proves(principal)


def _check_users(principal: Principal, statement: CreateUser | AlterUser | DropUser) -> None:
    if isinstance(statement, AlterUser) and is_own_password(principal, statement):
        return
    _need(principal, Role.DBA, "defining users")
    role = None if isinstance(statement, DropUser) else statement.role
    if role is not None:
        _need(principal, role, f"granting role {role.value}")


def check_read(principal: Principal, table: TableDef) -> None:
    """May `principal` read `table` (its own rows of it, where rows have tenants)?"""
    if isinstance(table, VirtualTable):
        _need(principal, table.readers, f"reading {table.full_name}")
    elif not table.is_tenant_scoped:
        _need(principal, READS_SHARED[table.options.access_level], f"reading {table.full_name}")


def may_read(principal: Principal, table: TableDef) -> bool:
    """`check_read` as a question, for lists that leave out what a principal may not read."""
    try:
        check_read(principal, table)
    except PermissionDenied:
        return False
    return True


def check_reads_all(principal: Principal) -> None:
    """May `principal` read rows of all tenants, wherever a query or a view names them?"""
    _need(principal, READS_ALL_USERS, "reading all users' rows")


def check_alter(principal: Principal, old: TableDef, new: TableDef) -> None:
    """May `principal` make `new` of `old`? Who may not write a table does not open or close it."""
    _check_write(principal, old)
    _check_write(principal, new)


def check_proves(principal: Principal) -> None:
    """May `principal` define what the rows of all users have to satisfy? Whether they do is an
    answer about them, so `auth.user_ddl` is not enough for it.
    """
    _need(principal, CREATES_TABLES, "NOT NULL, CHECK or UNIQUE over rows of all users")


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


def is_own_password(principal: Principal, statement: AlterUser) -> bool:
    """Everybody may give themselves another password; nothing else of themselves."""
    return (
        statement.password is not None
        and statement.name == principal.actor
        and principal.user == principal.actor
    )


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

_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@|-]{0,127}")
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
    if name.lower() in RESERVED_NAMESPACES | {DEFAULT_NAMESPACE}:
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


def is_subject(text: str) -> bool:
    """May a subject of an outside issuer be a user's name?"""
    return (
        _SUBJECT.fullmatch(text) is not None
        and ".." not in text
        and text.lower() not in RESERVED_USERS
    )


def check_identity(name: str, identity: Identity) -> None:
    """May a user of this name be this one at the outside issuer? Raises InvalidDefinition."""
    if identity.subject != name:
        raise InvalidDefinition("the subject of a user WITH OIDC is the user's name")
    if not is_subject(name):
        raise InvalidDefinition(
            f"subject {name!r}: use 1 to 128 of A-Z a-z 0-9 _ - . @ | without .."
            " and begin with a letter or a digit"
        )
    if complaint := check_endpoint(identity.issuer):
        raise InvalidDefinition(f"issuer {identity.issuer}: {complaint}")
