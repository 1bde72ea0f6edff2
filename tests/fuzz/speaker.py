"""Who speaks: dice, the catalog as it is, and the words of one user.

A `Speaker` writes pieces of SQL (names, values, literals, parameters) that fit the tables there
are at this moment, so that statements stay right while ALTER and DROP go on around them; now and
then it writes one that does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import ColumnType, Kind
from kalamdb.sql.virtual import VIRTUAL_TABLES

NAMESPACE = "app"

# Few of each type, so that keys meet, conditions hold and rows tie; and the edges of the type.
VALUES: dict[Kind, tuple[Any, ...]] = {
    Kind.BOOLEAN: (True, False),
    Kind.SMALLINT: (0, 1, 2, -32768, 32767),
    Kind.INT: (0, 1, 2, 3, 4, 7, -1, 2_147_483_647),
    Kind.BIGINT: (0, 1, 2, 3, -1, 1_000_000, "9007199254740993", -(1 << 63)),
    Kind.FLOAT: (0.5, -3.5, 0, 3.4e38),
    Kind.DOUBLE: (0.1, -1.7e308, 5e-324, 0, 1.5),
    Kind.DECIMAL: ("0", "1.50", "-0.01", "99999.99"),
    Kind.TEXT: ("a", "b", "", "O'Brien", "é\u0301", "%", "1", "ab"),
    Kind.BYTES: ([], [0, 255, 65], "\\x00ff"),
    Kind.JSON: ({"a": [1, None, "é"]}, [1, 2], '"text"', "[]"),
    Kind.TIMESTAMP: ("1969-12-31T23:59:59.999999", "2026-01-02T03:04:05", 0),
    Kind.DATETIME: ("2026-01-02T03:04:05+02:00", "0001-01-01T00:00:00Z", 1),
    Kind.DATE: ("1969-12-31", "2026-02-28", 0),
    Kind.TIME: ("00:00:00", "23:59:59.999999"),
    Kind.UUID: ("00010203-0405-0607-0809-0a0b0c0d0e0f", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    Kind.EMBEDDING: ([0.5, -1], "[1e-3, 3e10]"),
    Kind.FILE: ('{"name": "x"}',),
}
NUMBERS = (Kind.SMALLINT, Kind.INT, Kind.BIGINT, Kind.FLOAT, Kind.DOUBLE, Kind.DECIMAL)
TEXTS = (Kind.TEXT,)
TYPES = (
    "INT",
    "BIGINT",
    "SMALLINT",
    "TEXT",
    "VARCHAR(20)",
    "BOOLEAN",
    "DOUBLE",
    "REAL",
    "DECIMAL(7, 2)",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "DATE",
    "TIME",
    "UUID",
    "BYTES",
    "JSON",
    "EMBEDDING(2)",
    "ENUM('a', 'b')",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A column in reach of an expression, and how it is written there."""

    text: str
    type: ColumnType


Scope = Sequence[Cell]


def cells(table: TableDef, alias: str = "") -> list[Cell]:
    """The columns of a table, spelled for `alias`."""
    before = f"{alias}." if alias else ""
    return [Cell(before + quoted(column.name), column.type) for column in table.columns]


def quoted(name: str) -> str:
    return name if name.isidentifier() else '"' + name.replace('"', '""') + '"'


@dataclass(slots=True)
class Speaker:
    """Draws pieces of statements. `words` are texts it writes as values into its own rows,
    `others` names of other users, `ids` of transactions, queries and the like, anybody's.
    """

    dice: Random
    catalog: CatalogView
    user: str
    words: tuple[str, ...]
    others: tuple[str, ...]
    ids: Sequence[str] = ()
    params: list[Any] = field(default_factory=list[Any])
    is_batch: bool = False  # parameters cannot be sent with several statements
    values: Mapping[Kind, Sequence[Any]] = field(default_factory=lambda: VALUES)
    plain: bool = False  # names no more than tables: no view, nothing of all users or the system

    def one(self, *choices: Any) -> Any:
        return self.dice.choice(choices)

    def of(self, choices: Sequence[Any]) -> Any:
        return self.dice.choice(choices)

    def chance(self, percent: int) -> bool:
        return self.dice.random() * 100 < percent

    def maybe(self, percent: int, text: str) -> str:
        return text if self.chance(percent) else ""

    def some(self, choices: Sequence[Any], most: int) -> list[Any]:
        """One to `most` of them, each once, in any order."""
        return self.dice.sample(choices, self.dice.randint(1, max(1, min(most, len(choices)))))

    # ---- tables -------------------------------------------------------------------------------

    def tables(self, *kinds: TableKind) -> list[TableDef]:
        found = self.catalog.tables.values()
        return [one for one in found if (not kinds or one.kind in kinds) and one.columns]

    def table(self, *kinds: TableKind) -> TableDef:
        return self.of(self.tables(*kinds) or self.tables() or tuple(VIRTUAL_TABLES.values()))

    def own(self) -> TableDef:
        return self.table(TableKind.USER, TableKind.USER, TableKind.STREAM)

    def view(self) -> str:
        if self.plain:
            return "app.no_view"
        found = [view.full_name for view in self.catalog.views.values()]
        return self.of(found) if found else "app.no_view"

    def name(self, table: TableDef) -> str:
        """How a statement names it, nearly always rightly."""
        if self.plain or self.chance(88):
            return table.full_name
        bare, upper = table.name, table.full_name.upper()
        spelled = (f'"{table.namespace}"."{bare}"', upper, bare, f"app.{bare}")
        wrong = (
            f"{self.of(self.others)}.{bare}",
            f"all_users.{table.full_name}",
            "app.nothing",
            "nowhere.t",
            "system.users",
            "information_schema.tables",
            "pg_catalog.pg_class",
            self.view(),
        )
        return self.of(spelled if self.chance(75) else wrong)

    def column(self, table: TableDef) -> Column:
        return self.of(table.columns)

    def column_name(self, table: TableDef) -> str:
        if self.chance(4):
            return self.one("nope", "_seq", "_deleted", "_row_id", '"ID"', "_user_id", "count")
        return quoted(self.column(table).name)

    def new_name(self) -> str:
        """A name for what is to be made; few, so that they meet."""
        if self.chance(5):
            return self.one('"select"', "_x", "9a", '"a b"', "é", "a" * 65, '""', "_seq", "table")
        return self.one("c1", "c2", "c3", "extra", "txt", "n", "flag")

    # ---- values -------------------------------------------------------------------------------

    def value(self, column: ColumnType) -> str:
        """A value for a column: literal or parameter, NULL now and then, seldom of a wrong type."""
        if self.chance(8):
            return self.written(None)
        kind = self.of(tuple(self.values)) if self.chance(4) else column.kind
        if kind is Kind.TEXT and self.words and self.chance(60):
            return self.written(self.of(self.words))
        return self.written(self.of(self.values[kind]))

    def written(self, made: Any) -> str:
        """A parameter, or a literal."""
        if not self.is_batch and self.chance(25):
            self.params.append(made)
            return f"${len(self.params)}"
        match made:
            case None:
                return "NULL"
            case str():
                return text_literal(made)
            case bool() | int() | float():
                return repr(made).lower()
            case _ if self.is_batch:
                return "NULL"
            case _:
                self.params.append(made)
                return f"${len(self.params)}"

    def number(self) -> str:
        return self.written(self.one(0, 1, 2, 3, -1, 1.5, 1_000_000, 2_147_483_648, None))

    def text(self) -> str:
        return self.written(self.one(*VALUES[Kind.TEXT], *self.words, None))

    def user_name(self) -> str:
        name = (
            self.of(self.others) if self.chance(85) else self.one("nobody", "root", "", self.user)
        )
        return text_literal(name)

    def id(self) -> str:
        """The id of something that goes on, or of nothing."""
        if self.ids and self.chance(70):
            return text_literal(self.of(self.ids))
        return self.one("'1'", "'q-1'", "''", "'ffffffffffffffff'", "'1-2-3'")


def text_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def key_condition(speaker: Speaker, table: TableDef, alias: str = "") -> str:
    """Fixes the primary key; a condition on any column where the key is hidden."""
    before = f"{alias}." if alias else ""
    columns = [one for one in table.key_columns if one.id > 0] or [speaker.column(table)]
    return " AND ".join(
        f"{before}{quoted(column.name)} = {speaker.value(column.type)}" for column in columns
    )


__all__ = ["NAMESPACE", "NUMBERS", "TEXTS", "TYPES", "VALUES", "Cell", "Scope", "Speaker", "cells"]
