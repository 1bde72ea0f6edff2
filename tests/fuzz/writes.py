"""INSERT, UPDATE and DELETE, with ON CONFLICT and RETURNING."""

from __future__ import annotations

from kalamdb.model.table import Column, TableDef, TableKind
from tests.fuzz import expressions as e
from tests.fuzz.queries import where
from tests.fuzz.speaker import NUMBERS, Speaker, cells, key_condition, quoted


def target(speaker: Speaker) -> TableDef:
    """Mostly a table of one's own; a SHARED one shows to all what is written, so its words are
    nobody's."""
    if speaker.chance(94):
        return speaker.own()
    table = speaker.table(TableKind.SHARED)
    if not table.is_tenant_scoped:
        speaker.words = ()
    return table


def insert(speaker: Speaker) -> str:
    table = target(speaker)
    columns = [one for one in table.columns if needed(table, one) or speaker.chance(70)]
    columns = columns or list(table.columns)
    names = [quoted(one.name) for one in columns]
    if speaker.chance(3):
        names.append(speaker.one("nope", "_seq", names[0]))
    listed = f" ({', '.join(names)})"
    if len(columns) == len(table.columns) and speaker.chance(30):
        listed = ""
    match speaker.dice.randint(0, 19):
        case 0 if not any(needed(table, one) for one in table.columns) or speaker.chance(20):
            source = "DEFAULT VALUES"
            listed = ""
        case 1 | 2:
            source = selected(speaker, table, columns)
        case _:
            count = speaker.one(1, 1, 1, 2, 3)
            rows = (", ".join(value(speaker, one) for one in columns) for _ in range(count))
            source = "VALUES " + ", ".join(f"({row})" for row in rows)
    after = conflict(speaker, table) + returning(speaker, table)
    return f"INSERT INTO {speaker.name(table)}{listed} {source}{after}"


def needed(table: TableDef, column: Column) -> bool:
    return column.id in table.primary_key or (not column.nullable and column.default is None)


def value(speaker: Speaker, column: Column) -> str:
    if speaker.chance(1):
        return speaker.one("now()", "CURRENT_USER", "upper('a')", "NULL", "(SELECT 1)", "1 + 1")
    if speaker.chance(4):
        return "DEFAULT"
    if not column.nullable and speaker.chance(80):
        while (made := speaker.value(column.type)) == "NULL":
            pass
        return made
    return speaker.value(column.type)


def selected(speaker: Speaker, table: TableDef, columns: list[Column]) -> str:
    """Rows of one's own for the same columns, now and then of another table."""
    if not table.is_tenant_scoped:
        return "SELECT " + ", ".join(speaker.value(one.type) for one in columns)
    source = table if speaker.chance(70) else speaker.own()
    scope = cells(source)
    made: list[str] = []
    for column in columns:
        if column in source.columns and column.id not in table.primary_key:
            made.append(quoted(column.name))
        elif column.type.kind in NUMBERS:
            made.append(e.number(speaker, scope, 1, compiled=False))
        else:
            made.append(speaker.value(column.type))
    limit = speaker.one("", " LIMIT 1", " LIMIT 2")
    return f"SELECT {', '.join(made)} FROM {source.full_name}{where(speaker, scope)}{limit}"


def conflict(speaker: Speaker, table: TableDef) -> str:
    if not speaker.chance(35):
        return ""
    keys = [", ".join(one.name for one in table.key_columns if one.id > 0)]
    keys += [", ".join(table.by_id[c].name for c in one.columns) for one in table.uniques]
    named = [one for one in keys if one]
    target_text = f" ({speaker.of(named)})" if named else ""
    if speaker.chance(8):
        name = table.uniques[0].name if table.uniques else f"{table.name}_pkey"
        target_text = f" ON CONSTRAINT {name}"
    if speaker.chance(40) or not target_text:
        return f" ON CONFLICT{speaker.one(target_text, '')} DO NOTHING"
    column = speaker.of(table.columns)
    made = speaker.one(
        f"excluded.{quoted(column.name)}", speaker.value(column.type), "DEFAULT", "1"
    )
    condition = (
        f" WHERE {e.condition(speaker, cells(table, table.name), 0)}" if speaker.chance(20) else ""
    )
    return f" ON CONFLICT{target_text} DO UPDATE SET {quoted(column.name)} = {made}{condition}"


def returning(speaker: Speaker, table: TableDef) -> str:
    if not speaker.chance(25):
        return ""
    scope = cells(table)
    made = speaker.one(
        "*", speaker.of(scope).text, "_seq", e.text(speaker, scope, 1), "nope", "1 AS a, 2 AS b"
    )
    return f" RETURNING {made}"


def found(speaker: Speaker, table: TableDef) -> str:
    """The WHERE of a change: by key, by a filter, by the engine, of all rows, or none."""
    scope = cells(table)
    match speaker.dice.randint(0, 19):
        case 0 if speaker.chance(20):
            return ""
        case 0 | 1:
            return " WHERE true"
        case 2:
            return f" WHERE {e.condition(speaker, scope, compiled=False)}"
        case 3 | 4 | 5:
            return f" WHERE {e.condition(speaker, scope)}"
        case _:
            more = speaker.maybe(20, f" AND {e.condition(speaker, scope, 0)}")
            return f" WHERE {key_condition(speaker, table)}{more}"


def update(speaker: Speaker) -> str:
    table = target(speaker)
    if not table.accepts_update and speaker.chance(80):
        table = speaker.table(TableKind.USER)
    scope = cells(table)
    columns = [one for one in table.columns if one.id not in table.primary_key]
    if not columns or speaker.chance(4):
        columns = list(table.columns)
    sets: list[str] = []
    for column in speaker.some(columns, 2):
        made = value(speaker, column)
        if speaker.chance(35):
            write = e.number if column.type.kind in NUMBERS else e.text
            made = write(speaker, scope, compiled=speaker.chance(90))
        sets.append(f"{quoted(column.name)} = {made}")
    alias = speaker.maybe(8, f" AS {speaker.one('o', table.name)}")
    after = found(speaker, table) + returning(speaker, table)
    return f"UPDATE {speaker.name(table)}{alias} SET {', '.join(sets)}{after}"


def delete(speaker: Speaker) -> str:
    table = target(speaker)
    return f"DELETE FROM {speaker.name(table)}{found(speaker, table)}{returning(speaker, table)}"


def write(speaker: Speaker) -> str:
    """One of the three."""
    return speaker.one(insert, insert, insert, update, update, delete)(speaker)
