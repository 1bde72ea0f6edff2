"""The permission matrix, cell by cell, and the names that are refused."""

from __future__ import annotations

import pytest

from kalamdb.errors import InvalidDefinition, PermissionDenied
from kalamdb.model.catalog import User
from kalamdb.model.ids import TableId
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import AccessLevel, Column, TableDef, TableKind, TableOptions
from kalamdb.model.types import BIGINT
from kalamdb.session import permissions
from kalamdb.sql import statement as stmt
from kalamdb.sql.cluster_statement import ClusterLeave, ClusterList
from kalamdb.sql.statement import Statement, TableName
from kalamdb.sql.virtual import virtual_table

NAME = TableName("chat", "messages")
SELECT = stmt.Select(None, (NAME,))
ROLES = (Role.USER, Role.SERVICE, Role.DBA, Role.SYSTEM)


def table(kind: TableKind, level: AccessLevel = AccessLevel.PRIVATE) -> TableDef:
    return TableDef(
        TableId(1),
        "chat",
        "messages",
        kind,
        (Column(1, "id", BIGINT, nullable=False),),
        (1,),
        options=TableOptions(access_level=level),
    )


USER, STREAM = table(TableKind.USER), table(TableKind.STREAM)
SHARED = {level: table(TableKind.SHARED, level) for level in AccessLevel}
PUBLIC = SHARED[AccessLevel.PUBLIC]
WRITES: tuple[Statement, ...] = (
    stmt.Insert(None, NAME),
    stmt.Update(None, NAME),
    stmt.Delete(None, NAME),
)

# (statement, tables it touches, user, service, dba, system)
MATRIX: list[tuple[Statement, tuple[TableDef, ...], str]] = [
    (SELECT, (), "++++"),
    (SELECT, (USER,), "++++"),
    (SELECT, (STREAM,), "++++"),
    (SELECT, (PUBLIC,), "++++"),
    (SELECT, (SHARED[AccessLevel.PRIVATE],), "-+++"),
    (SELECT, (SHARED[AccessLevel.RESTRICTED],), "-+++"),
    (SELECT, (SHARED[AccessLevel.DBA],), "--++"),
    (SELECT, (USER, SHARED[AccessLevel.DBA]), "--++"),
    (stmt.Select(None, (TableName("chat", "m", all_users=True),)), (USER,), "--++"),
    (stmt.SubscribeTo("q", SELECT, {}), (USER,), "++++"),
    (stmt.SubscribeTo("q", SELECT, {}), (SHARED[AccessLevel.PRIVATE],), "-+++"),
    *((write, (USER,), "++++") for write in WRITES),
    *((write, (STREAM,), "++++") for write in WRITES),
    *((write, (PUBLIC,), "-+++") for write in WRITES),
    *((write, (SHARED[AccessLevel.PRIVATE],), "-+++") for write in WRITES),
    *((write, (SHARED[AccessLevel.RESTRICTED],), "-+++") for write in WRITES),
    *((write, (SHARED[AccessLevel.DBA],), "--++") for write in WRITES),
    (WRITES[0], (USER, PUBLIC), "++++"),  # INSERT … SELECT reads what follows
    (WRITES[0], (USER, SHARED[AccessLevel.PRIVATE]), "-+++"),
    (WRITES[0], (PUBLIC, USER), "-+++"),
    (stmt.CreateTable(NAME, False, None), (), "-+++"),
    (stmt.CreateTable(NAME, False, None), (USER,), "-+++"),
    (stmt.CreateTable(NAME, False, None), (PUBLIC,), "-+++"),
    (stmt.AlterTable(NAME, False, ()), (), "-+++"),
    (stmt.AlterTable(NAME, False, ()), (USER,), "-+++"),
    (stmt.AlterTable(NAME, False, ()), (PUBLIC,), "-+++"),
    (stmt.AlterTable(NAME, False, ()), (SHARED[AccessLevel.DBA],), "--++"),
    (stmt.CreateIndex(NAME, None, ("id",), False, False), (USER,), "-+++"),
    (stmt.CreateIndex(NAME, None, ("id",), False, False), (PUBLIC,), "-+++"),
    (stmt.CreateIndex(NAME, None, ("id",), False, False), (SHARED[AccessLevel.DBA],), "--++"),
    (stmt.DropIndex("i", None, NAME, False), (USER,), "-+++"),
    (stmt.DropIndex("i", None, NAME, False), (SHARED[AccessLevel.DBA],), "--++"),
    (stmt.DropTable(NAME, False), (USER,), "--++"),
    (stmt.CreateView(NAME, False, (), "q", SELECT), (), "--++"),
    (stmt.DropView(NAME, False, False), (), "--++"),
    (stmt.AlterNamespace("chat", {}), (), "--++"),
    (stmt.CreateNamespace("chat", False), (), "--++"),
    (stmt.DropNamespace("chat", False, False), (), "--++"),
    (stmt.CreateUser("bob", "password", Role.USER, None), (), "--++"),
    (stmt.CreateUser("bob", "password", Role.DBA, None), (), "--++"),
    (stmt.CreateUser("bob", "password", Role.SYSTEM, None), (), "---+"),
    (stmt.AlterUser("bob", password="password"), (), "--++"),
    (stmt.AlterUser("bob", role=Role.SYSTEM), (), "---+"),
    (stmt.DropUser("bob", False), (), "--++"),
    (stmt.Explain(SELECT), (USER,), "--++"),
    (stmt.UseNamespace("chat"), (), "++++"),
    (stmt.SetOption("consistency", "stale"), (), "++++"),
    (stmt.ShowNamespaces(), (), "++++"),
    (stmt.ShowTables(None), (), "++++"),
    (stmt.DescribeTable(NAME), (USER,), "++++"),
    (stmt.ShowCreate(NAME), (), "++++"),
    (stmt.ShowIndexes(NAME), (), "++++"),
    (stmt.ShowOngoing(stmt.Ongoing.QUERY), (), "++++"),
    (stmt.Kill(stmt.Ongoing.QUERY, "q1-1"), (), "++++"),
    (stmt.Cluster(ClusterList()), (), "--++"),
    (stmt.Cluster(ClusterLeave(2)), (), "--++"),
    (stmt.ShowUsers(), (), "--++"),
    (stmt.ShowSettings(None), (), "--++"),
    (SELECT, (virtual_table("system", "users"),), "--++"),
    (SELECT, (virtual_table("information_schema", "tables"),), "++++"),
    (stmt.ShowStats(NAME), (), "++++"),
    (stmt.ExecuteAs("bob", SELECT), (), "++++"),
    (stmt.Begin(), (), "++++"),
    (stmt.SetTransaction(True), (), "++++"),
    (stmt.Commit(), (), "++++"),
    (stmt.Rollback(), (), "++++"),
    (stmt.Savepoint("s"), (), "++++"),
    (stmt.ReleaseSavepoint("s"), (), "++++"),
    (stmt.RollbackTo("s"), (), "++++"),
]


@pytest.mark.parametrize(("statement", "tables", "expected"), MATRIX)
def test_matrix(statement: Statement, tables: tuple[TableDef, ...], expected: str) -> None:
    found = ""
    for role in ROLES:
        try:
            permissions.check(Principal.of("alice", role), statement, tables)
        except PermissionDenied:
            found += "-"
        else:
            found += "+"
    assert found == expected


def test_every_statement_is_in_the_matrix() -> None:
    assert {type(statement) for statement, _, _ in MATRIX} == set(Statement.__args__)


def test_user_ddl_lets_users_make_tenant_tables_only() -> None:
    alice = Principal.of("alice", Role.USER)
    create = stmt.CreateTable(NAME, False, None)
    for allowed in (USER, STREAM):
        permissions.check(alice, create, (allowed,), user_ddl=True)
    for tables in ((PUBLIC,), ()):
        with pytest.raises(PermissionDenied):
            permissions.check(alice, create, tables, user_ddl=True)


def test_user_ddl_is_no_way_to_ask_about_the_rows_of_others() -> None:
    alice, service = Principal.of("alice", Role.USER), Principal.of("backend", Role.SERVICE)
    for unique in (False, True):
        index = stmt.CreateIndex(NAME, "i", ("a",), unique, False)
        permissions.check(service, index, (USER,))
        if not unique:
            permissions.check(alice, index, (USER,), user_ddl=True)
            continue
        with pytest.raises(PermissionDenied):
            permissions.check(alice, index, (USER,), user_ddl=True)


def test_who_may_not_write_a_table_does_not_open_or_close_it() -> None:
    service = Principal.of("backend", Role.SERVICE)
    permissions.check_alter(service, PUBLIC, SHARED[AccessLevel.PRIVATE])
    for old, new in ((SHARED[AccessLevel.DBA], PUBLIC), (PUBLIC, SHARED[AccessLevel.DBA])):
        with pytest.raises(PermissionDenied):
            permissions.check_alter(service, old, new)
        permissions.check_alter(Principal.of("ann", Role.DBA), old, new)


@pytest.mark.parametrize(
    ("actor", "reaches"),
    [
        (Role.USER, ()),
        (Role.SERVICE, (None, Role.USER, Role.SERVICE)),
        (Role.DBA, (None, Role.USER, Role.SERVICE, Role.DBA)),
        (Role.SYSTEM, (None, *ROLES)),
    ],
)
def test_execute_as(actor: Role, reaches: tuple[Role | None, ...]) -> None:
    principal = Principal.of("alice", actor)
    for role in (None, *ROLES):
        target = None if role is None else User("bob", role, "", None, 1, 0, 0)
        if role in reaches:
            permissions.check_execute_as(principal, "bob", target)
        else:
            with pytest.raises(PermissionDenied):
                permissions.check_execute_as(principal, "bob", target)


def test_users_may_act_as_themselves() -> None:
    alice = Principal.of("alice", Role.USER)
    permissions.check_execute_as(alice, "alice", User("alice", Role.USER, "", None, 1, 0, 0))


def test_nobody_changes_a_user_above_themselves() -> None:
    for role in ROLES:
        target = User("bob", role, "", None, 1, 0, 0)
        permissions.check_user_change(Principal.of("root", Role.SYSTEM), target)
        with pytest.raises(PermissionDenied):
            permissions.check_user_change(Principal.of("alice", Role.SERVICE), target)
    with pytest.raises(PermissionDenied):
        permissions.check_user_change(
            Principal.of("alice", Role.DBA), User("root", Role.SYSTEM, "", None, 1, 0, 0)
        )


@pytest.mark.parametrize("name", ["chat", "Chat_2", "a" * 64])
def test_good_namespaces(name: str) -> None:
    permissions.check_namespace_name(name)


@pytest.mark.parametrize(
    "name", ["", "_a", "1a", "a b", "a-b", "a" * 65, "ä", "default", "SYSTEM", "a\n", "all_users"]
)
def test_refused_namespaces(name: str) -> None:
    with pytest.raises(InvalidDefinition):
        permissions.check_namespace_name(name)


@pytest.mark.parametrize("name", ["alice", "a@b.c", "shared:7", "Ünïcode", "a" * 128, "a b"])
def test_good_users(name: str) -> None:
    permissions.check_user_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 129,
        "a/b",
        "a\\b",
        "..",
        ".",
        "a..b",
        "a\0",
        "a\n",
        " a",
        "a ",
        "root",
        "Anonymous",
    ],
)
def test_refused_users(name: str) -> None:
    with pytest.raises(InvalidDefinition):
        permissions.check_user_name(name)
