"""SELECT in all its forms: by key and by range, and everything the query engine is for."""

from __future__ import annotations

from kalamdb.model.table import TableDef
from kalamdb.sql.virtual import VIRTUAL_TABLES
from tests.fuzz import expressions as e
from tests.fuzz.speaker import Scope, Speaker, cells, key_condition

JOINS = (
    "JOIN",
    "LEFT JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
    "CROSS JOIN",
    "LEFT SEMI JOIN",
    "NATURAL JOIN",
)
SETS = ("UNION", "UNION ALL", "EXCEPT", "INTERSECT")


def where(speaker: Speaker, scope: Scope, percent: int = 80, *, compiled: bool = True) -> str:
    if not speaker.chance(percent):
        return ""
    return f" WHERE {e.condition(speaker, scope, compiled=compiled)}"


def order(speaker: Speaker, scope: Scope) -> str:
    parts = [
        cell.text
        + speaker.one("", "", " ASC", " DESC")
        + speaker.one("", "", " NULLS FIRST", " NULLS LAST")
        for cell in speaker.some(scope, 3)
    ]
    return " ORDER BY " + ", ".join(parts)


def cut(speaker: Speaker) -> str:
    limit = speaker.one("0", "1", "2", "50", "NULL", "-1", "1 + 1", "'2'", speaker.number())
    text = f" LIMIT {limit}" if speaker.chance(70) else f" LIMIT {speaker.one(1, 2, 5)}"
    return text + speaker.maybe(30, f" OFFSET {speaker.one(0, 1, 3)}")


def simple(speaker: Speaker) -> str:
    """What is mostly read without the engine: by key, by a range, by an index."""
    table = speaker.table()
    name, scope = speaker.name(table), cells(table)
    what = speaker.one(
        "*", ", ".join(c.text for c in speaker.some(scope, 3)), e.text(speaker, scope, 1)
    )
    match speaker.dice.randint(0, 7):
        case 0 | 1 | 2 | 3:
            more = speaker.maybe(20, f" AND {e.condition(speaker, scope, 0)}")
            return f"SELECT {what} FROM {name} WHERE {key_condition(speaker, table)}{more}"
        case 4 | 5:
            index = _indexed(speaker, table)
            cell = speaker.of(scope) if index is None else index
            made = f"{cell.text} {speaker.one('=', '=', '>', '<=')} {speaker.value(cell.type)}"
            down = speaker.one("", " DESC")
            return f"SELECT {what} FROM {name} WHERE {made} ORDER BY {cell.text}{down} LIMIT 5"
        case 6:
            key = ", ".join(c.name for c in table.key_columns if c.id > 0) or scope[0].text
            return f"SELECT {what} FROM {name} ORDER BY {key} LIMIT {speaker.one(1, 3)}"
        case _:
            key = key_condition(speaker, table, "t")
            return f"SELECT {cells(table, 't')[0].text} FROM {name} AS t WHERE {key}"


def _indexed(speaker: Speaker, table: TableDef) -> e.Cell | None:
    firsts = [one.columns[0] for one in (*table.indexes, *table.uniques)]
    firsts += list(table.primary_key[:1])
    known = [table.by_id[one] for one in firsts if one > 0 and one in table.by_id]
    if not known:
        return None
    column = speaker.of(known)
    return next(c for c in cells(table) if c.text.strip('"') == column.name)


def source(speaker: Speaker, alias: str) -> tuple[str, Scope]:
    """Something in FROM, and what it gives."""
    table = speaker.table()
    scope = cells(table, alias)
    match speaker.dice.randint(0, 9) if not speaker.plain else speaker.one(0, 9):
        case 0:
            return (
                f"(SELECT * FROM {speaker.name(table)}{where(speaker, cells(table))}) {alias}",
                scope,
            )
        case 1:
            return f"all_users.{table.full_name} AS {alias}", scope
        case 2:
            virtual = speaker.of(tuple(VIRTUAL_TABLES.values()))
            return f"{virtual.full_name} {alias}", cells(virtual, alias)
        case 3 if speaker.catalog.views:
            view = speaker.of(tuple(speaker.catalog.views.values()))
            scope = [e.Cell(f"{alias}.{name}", scope[0].type) for name in view.columns]
            return f"{view.full_name} {alias}", scope
        case _:
            return f"{speaker.name(table)} {speaker.one('', 'AS ')}{alias}", scope


def rich(speaker: Speaker) -> str:
    """What the engine answers."""
    match speaker.dice.randint(0, 11):
        case 0 | 1:
            return joined(speaker)
        case 2 | 3:
            return grouped(speaker)
        case 4:
            return windowed(speaker)
        case 5:
            return with_names(speaker)
        case 6:
            left, right = (core(speaker) for _ in "lr")
            return f"{left} {speaker.of(SETS)} {right}{speaker.maybe(50, ' ORDER BY 1')}"
        case 7:
            return f"SELECT ({core(speaker)}) AS x, CURRENT_USER() AS me"
        case 8:
            return from_view(speaker)
        case 9:
            return from_virtual(speaker)
        case 10:
            return speaker.one(
                f"VALUES ({speaker.number()}, {speaker.text()}), (NULL, 'x')",
                f"SELECT {e.number(speaker, _nothing(speaker), compiled=False)} AS a",
                "SELECT 1 AS a, 'x' AS b, NULL AS c",
                f"SELECT * FROM (VALUES (1, 'a'), (2, NULL)) AS v(k, t){cut(speaker)}",
            )
        case _:
            from_, scope = source(speaker, "t")
            items = ", ".join(
                f"{e.item(speaker, scope)} AS x{i}" for i in range(speaker.one(1, 2, 3))
            )
            distinct = speaker.maybe(25, "DISTINCT ")
            tail = order(speaker, scope) if not distinct and speaker.chance(60) else ""
            wanted = where(speaker, scope, compiled=False)
            limit = speaker.maybe(40, cut(speaker))
            return f"SELECT {distinct}{items} FROM {from_}{wanted}{tail}{limit}"


def _nothing(speaker: Speaker) -> Scope:
    return [e.Cell("1", column.type) for column in speaker.table().columns[:1]]


def core(speaker: Speaker) -> str:
    """One column of one table."""
    from_, scope = source(speaker, "t")
    made = speaker.one(e.column(speaker, scope), e.number(speaker, scope, 1), "count(*)", "max(1)")
    return f"SELECT {made} FROM {from_}{where(speaker, scope, 50)}"


def joined(speaker: Speaker) -> str:
    left, scope_l = source(speaker, "l")
    right, scope_r = source(speaker, "r")
    join = speaker.of(JOINS)
    both = [*scope_l, *scope_r]
    on = f" ON {speaker.of(scope_l).text} = {speaker.of(scope_r).text}"
    if speaker.chance(15):
        on = f" ON {e.condition(speaker, both)}"
    if join in ("CROSS JOIN", "NATURAL JOIN"):
        on = ""
    what = speaker.one(
        "*", "count(*) AS n", f"{speaker.of(both).text} AS x, {speaker.of(both).text} AS y"
    )
    tail = speaker.maybe(50, cut(speaker))
    return f"SELECT {what} FROM {left} {join} {right}{on}{where(speaker, both, 40)}{tail}"


def grouped(speaker: Speaker) -> str:
    from_, scope = source(speaker, "t")
    key = speaker.of(scope).text
    made = [e.filled(speaker, scope, speaker.of(e.AGGREGATES)) for _ in range(speaker.one(1, 2))]
    listed = ", ".join(f"{one} AS a{i}" for i, one in enumerate(made))
    if speaker.chance(30):
        return f"SELECT {listed} FROM {from_}{where(speaker, scope)}"
    by = speaker.one(key, key, f"ROLLUP ({key})", f"GROUPING SETS (({key}), ())", "1")
    having = speaker.maybe(30, f" HAVING {made[0]} IS NOT NULL")
    return f"SELECT {key} AS k, {listed} FROM {from_} GROUP BY {by}{having} ORDER BY k"


def windowed(speaker: Speaker) -> str:
    from_, scope = source(speaker, "t")
    made = e.filled(speaker, scope, speaker.of(e.WINDOWS))
    keep = speaker.maybe(20, " QUALIFY w = 1")
    wanted = where(speaker, scope, 30)
    return f"SELECT {speaker.of(scope).text} AS k, {made} AS w FROM {from_}{wanted}{keep}"


def with_names(speaker: Speaker) -> str:
    if speaker.chance(25):
        most = speaker.one(3, 10, 100)
        return (
            f"WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < {most})"
            " SELECT count(*) AS c, max(n) AS m FROM r"
        )
    from_, scope = source(speaker, "t")
    inner = f"SELECT {speaker.of(scope).text} AS k FROM {from_}{where(speaker, scope)}"
    second = speaker.one("", ", d AS (SELECT k FROM c)")
    outer = speaker.one(
        "SELECT count(*) AS n FROM c",
        "SELECT * FROM c ORDER BY k LIMIT 3",
        "SELECT a.k FROM c a JOIN c b ON a.k = b.k",
    )
    return f"WITH c AS ({inner}){second} {outer}"


def from_view(speaker: Speaker) -> str:
    name = speaker.view()
    return speaker.one(
        f"SELECT * FROM {name}",
        f"SELECT count(*) AS n FROM {name}",
        f"SELECT * FROM {name} LIMIT 2",
        f"SELECT a.* FROM {name} a JOIN {name} b ON true",
    )


def from_virtual(speaker: Speaker) -> str:
    if speaker.plain:
        return grouped(speaker)
    table = speaker.of(tuple(VIRTUAL_TABLES.values()))
    if speaker.chance(60):
        table = speaker.of([t for t in VIRTUAL_TABLES.values() if t.namespace != "system"])
    scope = cells(table)
    what = speaker.one("*", "count(*) AS n", speaker.of(scope).text)
    wanted = where(speaker, scope, 50)
    return f"SELECT {what} FROM {table.full_name}{wanted}{speaker.maybe(40, cut(speaker))}"


def select(speaker: Speaker) -> str:
    """A SELECT of any kind."""
    return simple(speaker) if speaker.chance(50) else rich(speaker)
