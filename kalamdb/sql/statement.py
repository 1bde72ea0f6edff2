"""What a client asked, as data: a closed union of frozen classes, one per kind of statement.

Made by `sql.parse` alone; permission, target and execution `match` on the class and never look at
the text. Trees (`exp.Expr`) stay opaque outside `kalamdb/sql`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kalamdb.model.principal import Role

Tree = Any  # a sqlglot expression


@dataclass(frozen=True, slots=True)
class TableName:
    """A table as written; `namespace` None means the session's. `all_users` for the three-part read
    form.
    """

    namespace: str | None
    name: str
    all_users: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """Any query: SELECT, WITH, VALUES, set operations. `tables` are all base tables it names (not
    CTEs).
    """

    tree: Tree
    tables: tuple[TableName, ...]


@dataclass(frozen=True, slots=True)
class Insert:
    tree: Tree
    table: TableName


@dataclass(frozen=True, slots=True)
class Update:
    tree: Tree
    table: TableName


@dataclass(frozen=True, slots=True)
class Delete:
    tree: Tree
    table: TableName


@dataclass(frozen=True, slots=True)
class CreateNamespace:
    name: str
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class DropNamespace:
    name: str
    if_exists: bool
    cascade: bool


@dataclass(frozen=True, slots=True)
class UseNamespace:
    name: str


@dataclass(frozen=True, slots=True)
class CreateTable:
    """`definition` is the tree; `sql.ddl.table_definition` turns it into a TableDef."""

    table: TableName
    if_not_exists: bool
    definition: Tree


@dataclass(frozen=True, slots=True)
class DropTable:
    table: TableName
    if_exists: bool


@dataclass(frozen=True, slots=True)
class CreateUser:
    """`password` None: INTERNAL (cannot sign in by password)."""

    name: str
    password: str | None
    role: Role
    email: str | None
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class AlterUser:
    """Exactly one of the three is set."""

    name: str
    password: str | None = None
    role: Role | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class DropUser:
    name: str
    if_exists: bool


@dataclass(frozen=True, slots=True)
class Explain:
    inner: Statement


@dataclass(frozen=True, slots=True)
class ExecuteAs:
    user: str
    inner: Statement


@dataclass(frozen=True, slots=True)
class ShowNamespaces:
    pass


@dataclass(frozen=True, slots=True)
class ShowTables:
    namespace: str | None


@dataclass(frozen=True, slots=True)
class DescribeTable:
    table: TableName


@dataclass(frozen=True, slots=True)
class SetOption:
    """SET name = value for the rest of the request; only names in the session's table are known."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class SubscribeTo:
    """Returns a descriptor row; the client opens the WebSocket. `query` is the live SELECT."""

    query: str
    select: Select
    options: Mapping[str, int]


Statement = (
    Select
    | Insert
    | Update
    | Delete
    | CreateNamespace
    | DropNamespace
    | UseNamespace
    | CreateTable
    | DropTable
    | CreateUser
    | AlterUser
    | DropUser
    | Explain
    | ExecuteAs
    | ShowNamespaces
    | ShowTables
    | DescribeTable
    | SetOption
    | SubscribeTo
)
