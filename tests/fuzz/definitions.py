"""Statements that define: tables, ALTER in all forms, indexes, views, namespaces, users."""

from __future__ import annotations

from kalamdb.model.table import Column, TableDef
from kalamdb.model.types import Kind
from tests.fuzz import expressions as e
from tests.fuzz.queries import select
from tests.fuzz.speaker import TYPES, VALUES, Speaker, cells, quoted

OPTIONS = (
    "TTL_SECONDS = 5",
    "ACCESS_LEVEL = 'public'",
    "ACCESS_LEVEL = 'private'",
    "ACCESS_LEVEL = 'dba'",
    "HISTORY = 'full'",
    "HISTORY_RETENTION_HOURS = 48",
    "TYPE = 'USER'",
    "COMPRESSION = 'lz4'",
    "FLUSH_POLICY = 'rows:100'",
    "NOPE = 1",
    "TTL_SECONDS = -1",
    "USE_USER_STORAGE = true",
)
DEFAULTS = (
    "5",
    "'x'",
    "NULL",
    "now()",
    "CURRENT_USER",
    "SNOWFLAKE_ID()",
    "ULID()",
    "true",
    "1 + 1",
    "0.5",
)
TABLES_MOST, VIEWS_MOST, USERS_MOST, COLUMNS_MOST = 12, 6, 10, 12


def checked(speaker: Speaker, table: TableDef | None) -> str:
    if table is None:
        return speaker.one(
            "id > 0", "n < 1000000", "length(txt) < 100", "nope > 1", "txt LIKE 'a%'"
        )
    speaker.is_batch = True  # a definition takes no parameters
    made = e.condition(speaker, cells(table), 1)
    column = speaker.of(table.columns)
    return speaker.one(made, f"{quoted(column.name)} IS NOT NULL OR true")


def fitting(speaker: Speaker, kind: str) -> str:
    """A DEFAULT for a column of a type, as a clause."""
    literals = {
        "INT": "5",
        "BIGINT": "SNOWFLAKE_ID()",
        "TEXT": "'x'",
        "BOOLEAN": "true",
        "DOUBLE": "0.5",
    }
    made = literals.get(kind, "NULL") if speaker.chance(75) else speaker.of(DEFAULTS)
    return f" DEFAULT {made}"


def column_text(speaker: Speaker, name: str) -> str:
    kind = speaker.of(TYPES)
    parts = [f"{name} {kind}"]
    default = speaker.maybe(45, fitting(speaker, kind))
    parts.append(default)
    parts.append(speaker.one("", "", " NOT NULL" if default else "", " NULL", " NOT NULL"))
    parts.append(speaker.maybe(8, " UNIQUE"))
    parts.append(speaker.maybe(8, f" CHECK ({checked(speaker, None)})"))
    return "".join(parts)


def create_table(speaker: Speaker) -> str:
    full = len(speaker.catalog.tables) >= TABLES_MOST
    name = speaker.one("t1", "t2", "t3", "t4") if not full else speaker.one("notes", "t1")
    kind = speaker.one("USER ", "USER ", "SHARED ", "STREAM ", "")
    key = speaker.one(
        "id INT PRIMARY KEY",
        "id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID()",
        "id INT",
        "id TEXT PRIMARY KEY",
    )
    columns = [key, *(column_text(speaker, c) for c in speaker.some(("txt", "n", "flag", "at"), 3))]
    if speaker.chance(20):
        columns.append(
            speaker.one(
                "UNIQUE (id)",
                "PRIMARY KEY (id)",
                "CONSTRAINT c CHECK (id > 0)",
                "UNIQUE (nope)",
                "CHECK (id > 0 AND id < 100)",
                "FOREIGN KEY (id) REFERENCES notes (id)",
            )
        )
    with_ = " WITH (TTL_SECONDS = 10)" if kind == "STREAM " and speaker.chance(90) else ""
    with_ = with_ or speaker.maybe(20, f" WITH ({', '.join(speaker.some(OPTIONS, 2))})")
    there = speaker.maybe(30, "IF NOT EXISTS ")
    return f"CREATE {kind}TABLE {there}app.{name} ({', '.join(columns)}){with_}"


def change(speaker: Speaker, table: TableDef) -> str:
    """One change of an ALTER TABLE."""
    speaker.is_batch = True
    column = speaker.column(table)
    name = speaker.column_name(table)
    kind = speaker.of(TYPES)
    match speaker.dice.randint(0, 13):
        case 0 | 1 | 2 if len(table.columns) < COLUMNS_MOST:
            there = speaker.maybe(20, "IF NOT EXISTS ")
            return (
                f"ADD {speaker.one('COLUMN ', '')}{there}{column_text(speaker, speaker.new_name())}"
            )
        case 0 | 1 | 2 | 3:
            tail = speaker.one("", "", " CASCADE", " RESTRICT")
            return f"DROP {speaker.one('COLUMN ', '')}{speaker.maybe(20, 'IF EXISTS ')}{name}{tail}"
        case 4:
            word = speaker.one("SET NOT NULL", "DROP NOT NULL", "DROP DEFAULT")
            return f"ALTER {speaker.one('COLUMN ', '')}{name} {word}"
        case 5:
            return f"ALTER COLUMN {name} SET DEFAULT {default_for(speaker, column)}"
        case 6:
            wider = {"INT": "BIGINT", "SMALLINT": "INT", "FLOAT": "DOUBLE"}.get(
                column.type.sql, "TEXT"
            )
            to = wider if speaker.chance(60) else kind
            word = speaker.one("TYPE", "SET DATA TYPE")
            return f"ALTER COLUMN {quoted(column.name)} {word} {to}"
        case 7:
            tail = speaker.one("", " NOT NULL", " NULL")
            return f"MODIFY {speaker.one('COLUMN ', '')}{name} {kind}{tail}"
        case 8:
            return f"RENAME COLUMN {name} TO {speaker.new_name()}"
        case 9:
            named = speaker.maybe(40, f"CONSTRAINT {speaker.one('k1', 'k2')} ")
            return f"ADD {named}CHECK ({checked(speaker, table)})"
        case 10:
            return f"ADD UNIQUE ({name})"
        case 11:
            known = [one.name for one in (*table.checks, *table.uniques)] or ["nope"]
            return f"DROP CONSTRAINT {speaker.maybe(30, 'IF EXISTS ')}{speaker.of(known)}"
        case 12:
            return f"SET TBLPROPERTIES ({speaker.of(OPTIONS)})"
        case _:
            return (
                f"SET ACCESS LEVEL {speaker.one('PUBLIC', 'PRIVATE', 'RESTRICTED', 'DBA', 'NOPE')}"
            )


def default_for(speaker: Speaker, column: Column) -> str:
    if speaker.chance(20) or column.type.kind in (Kind.BYTES, Kind.JSON, Kind.EMBEDDING):
        return speaker.of(DEFAULTS)
    return speaker.written(speaker.of(VALUES[column.type.kind]))


def alter_table(speaker: Speaker) -> str:
    table = speaker.table()
    if speaker.chance(4):
        back = {"renamed": "notes", "renamed_2": "pairs"}.get(table.name)
        return (
            f"ALTER TABLE {table.full_name} RENAME TO {back or speaker.one('renamed', 'renamed_2')}"
        )
    if speaker.chance(8):
        known = [one.name for one in (*table.checks, *table.uniques)] or ["nope"]
        return f"ALTER TABLE {table.full_name} RENAME CONSTRAINT {speaker.of(known)} TO k3"
    changes = ", ".join(change(speaker, table) for _ in range(speaker.one(1, 1, 1, 2, 3)))
    return f"ALTER TABLE {speaker.maybe(20, 'IF EXISTS ')}{speaker.name(table)} {changes}"


def index(speaker: Speaker) -> str:
    table = speaker.table()
    known = [one.name for one in table.indexes]
    known += [one.name for one in table.uniques if one.by_index]
    if known and (speaker.chance(50) or len(known) > 4):
        on = speaker.maybe(50, f" ON {table.full_name}")
        name = speaker.of(known) if on or speaker.chance(50) else f"app.{speaker.of(known)}"
        if speaker.chance(15):
            return f"ALTER TABLE {table.full_name} DROP INDEX {name}"
        return f"DROP INDEX {speaker.maybe(20, 'IF EXISTS ')}{name}{on}"
    columns = ", ".join(
        quoted(one.name) + speaker.one("", "", " DESC", " ASC NULLS LAST")
        for one in speaker.some(table.columns, 3)
    )
    name = speaker.one("i1", "i2", "i3", "")
    if name and speaker.chance(15):
        return f"ALTER TABLE {table.full_name} CREATE INDEX {name} ({columns})"
    there = speaker.maybe(20, "IF NOT EXISTS ") if name else ""
    unique, on = speaker.one("", "", "UNIQUE "), speaker.name(table)
    return f"CREATE {unique}INDEX {there}{name} ON {on} ({columns})"


def view(speaker: Speaker) -> str:
    speaker.is_batch = True
    known = list(speaker.catalog.views.values())
    if known and (speaker.chance(40) or len(known) >= VIEWS_MOST):
        name = speaker.of(known).full_name
        return f"DROP VIEW {speaker.maybe(20, 'IF EXISTS ')}{name}{drop_tail(speaker)}"
    name = speaker.one("v1", "v2", "v3", "v4")
    columns = speaker.maybe(15, "(a, b)")
    made = select(speaker)
    return f"CREATE {speaker.maybe(40, 'OR REPLACE ')}VIEW app.{name} {columns} AS {made}"


def namespace(speaker: Speaker) -> str:
    name = speaker.one("other", "mine", "app", "system", "default", '"select"', "a-b")
    return speaker.one(
        f"CREATE NAMESPACE {speaker.maybe(40, 'IF NOT EXISTS ')}{name}",
        f"DROP NAMESPACE {speaker.maybe(40, 'IF EXISTS ')}{speaker.one('other', 'mine')}"
        + speaker.one("", " CASCADE", " RESTRICT"),
        f"ALTER NAMESPACE {name} SET OPTIONS (owner = 'ann', n = 5)",
        f"ALTER NAMESPACE {name} SET DESCRIPTION 'words'",
    )


def user(speaker: Speaker) -> str:
    """Never of those who speak: they are needed until the end."""
    full = len(speaker.catalog.users) + len(speaker.catalog.dropped_users) >= USERS_MOST
    name = speaker.one("'u1'", "'u2'", "u3", "'Zoë'") if not full else speaker.one("'u1'", "'u2'")
    role = speaker.one("user", "service", "dba", "system", "nope", "viewer")
    with_ = speaker.one(
        "PASSWORD 'a long one 55'",
        "INTERNAL",
        "PASSWORD 'a'",
        """OIDC '{"issuer": "https://x.example", "subject": "u1"}'""",
    )
    new_password = "PASSWORD 'another long 1'"
    return speaker.one(
        f"CREATE USER {speaker.maybe(30, 'IF NOT EXISTS ')}{name} WITH {with_} ROLE {role}"
        + speaker.one("", " EMAIL 'a@example.org'", " REUSE DATA"),
        f"ALTER USER {name} SET {speaker.one(f'ROLE {role}', 'EMAIL NULL', new_password)}",
        f"DROP USER {speaker.maybe(30, 'IF EXISTS ')}{name}",
    )


def drop_table(speaker: Speaker) -> str:
    made = [one.full_name for one in speaker.tables() if one.name.startswith("t")]
    name = speaker.of(made) if made and speaker.chance(80) else "app.nothing"
    return f"DROP TABLE {speaker.maybe(30, 'IF EXISTS ')}{name}{drop_tail(speaker)}"


def drop_tail(speaker: Speaker) -> str:
    return speaker.one("", " RESTRICT", " CASCADE")
