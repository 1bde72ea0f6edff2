"""What a client asked, as data: a closed union of frozen classes, one per kind of statement.

Made by `sql.parse` alone; permission, target and execution `match` on the class and never look at
the text. Trees (`exp.Expr`) stay opaque outside `kalamdb/sql`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kalamdb.model.catalog import Identity
from kalamdb.model.principal import Role
from kalamdb.sql.cluster_statement import ClusterAsked

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
class AlterTable:
    """`changes` are `alter_table.TableChange`s; `sql.alter.altered_table` gives their meaning."""

    table: TableName
    if_exists: bool
    changes: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class CreateIndex:
    """`name` None: made from the table's and the columns' names."""

    table: TableName
    name: str | None
    columns: tuple[str, ...]
    unique: bool
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class DropIndex:
    """The index `name` of a namespace (None: the table's, or the session's), or of `table`."""

    name: str
    namespace: str | None
    table: TableName | None
    if_exists: bool


@dataclass(frozen=True, slots=True)
class DropTable:
    table: TableName
    if_exists: bool
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class CreateView:
    """`columns` are the names given in parentheses; `query` is the text of its SELECT, `found` the
    columns it gives, once the session has found out.
    """

    view: TableName
    or_replace: bool
    columns: tuple[str, ...]
    query: str
    select: Select
    found: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DropView:
    view: TableName
    if_exists: bool
    cascade: bool


@dataclass(frozen=True, slots=True)
class AlterNamespace:
    """Options to merge into those there are; None takes one out."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CreateUser:
    """`password` None: INTERNAL (cannot sign in by password), or OIDC with an `identity`.
    `reuse_data` takes the name of a dropped user with the rows that are kept under it.
    """

    name: str
    password: str | None
    role: Role
    email: str | None
    if_not_exists: bool = False
    identity: Identity | None = None
    reuse_data: bool = False


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
    """`history`: all versions of its columns that are kept."""

    table: TableName
    history: bool = False


@dataclass(frozen=True, slots=True)
class ShowCreate:
    """SHOW CREATE TABLE or VIEW; either word shows what the name stands for."""

    table: TableName
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class ShowStats:
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


@dataclass(frozen=True, slots=True)
class Begin:
    """Every level there is gives snapshot isolation."""

    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SetTransaction:
    """Of the running transaction, before its first statement. None: as it is."""

    read_only: bool | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    pass


@dataclass(frozen=True, slots=True)
class Rollback:
    pass


@dataclass(frozen=True, slots=True)
class Savepoint:
    name: str


@dataclass(frozen=True, slots=True)
class ReleaseSavepoint:
    name: str


@dataclass(frozen=True, slots=True)
class RollbackTo:
    """Back to a savepoint, which stays."""

    name: str


class Ongoing(Enum):
    """What goes on and can be listed and ended; the value is what KILL calls it."""

    QUERY = "QUERY"
    LIVE_QUERY = "LIVE QUERY"
    TRANSACTION = "TRANSACTION"
    CONNECTION = "CONNECTION"


@dataclass(frozen=True, slots=True)
class Kill:
    kind: Ongoing
    id: str


@dataclass(frozen=True, slots=True)
class ShowOngoing:
    """SHOW QUERIES, LIVE QUERIES, TRANSACTIONS, CONNECTIONS."""

    kind: Ongoing


@dataclass(frozen=True, slots=True)
class ShowUsers:
    pass


@dataclass(frozen=True, slots=True)
class ShowIndexes:
    """Of one table, or of all that the session may read."""

    table: TableName | None


@dataclass(frozen=True, slots=True)
class ShowSettings:
    """SHOW ALL, or SHOW of one setting."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What an operator asks of the nodes, members and leaders."""

    asked: ClusterAsked


ShowStatement = ShowOngoing | ShowUsers | ShowIndexes | ShowSettings

TransactionStatement = (
    Begin | SetTransaction | Commit | Rollback | Savepoint | ReleaseSavepoint | RollbackTo
)

Statement = (
    Select
    | Insert
    | Update
    | Delete
    | CreateNamespace
    | DropNamespace
    | UseNamespace
    | CreateTable
    | AlterTable
    | DropTable
    | CreateIndex
    | DropIndex
    | CreateView
    | DropView
    | AlterNamespace
    | CreateUser
    | AlterUser
    | DropUser
    | Explain
    | ExecuteAs
    | ShowNamespaces
    | ShowTables
    | DescribeTable
    | ShowCreate
    | ShowStats
    | SetOption
    | SubscribeTo
    | Kill
    | Cluster
    | ShowStatement
    | TransactionStatement
)
