"""Expressions over the columns in reach: numbers, texts, conditions, aggregates, windows.

`compiled` ones use only what every path of the server knows; the others anything an engine has.
"""

from __future__ import annotations

from tests.fuzz.speaker import NUMBERS, TEXTS, TYPES, Cell, Scope, Speaker

COMPARED = ("=", "<>", "<", "<=", ">", ">=", "!=")
NUMBER_CALLS = ("abs", "round", "floor", "sqrt", "sign", "nope", "ln", "power", "random")
TEXT_CALLS = ("upper", "lower", "trim", "reverse", "initcap", "md5", "ascii", "btrim", "to_hex")
TEXT_CALLS_2 = ("replace", "lpad", "split_part", "repeat", "left", "right", "strpos", "concat")
TIME_CALLS = (
    "date_trunc('day', now())",
    "extract(year FROM now())",
    "now()",
    "CURRENT_TIMESTAMP",
    "now() - INTERVAL '1 day'",
    "to_timestamp(0)",
)
AGGREGATES = (
    "count(*)",
    "count({any})",
    "count(DISTINCT {any})",
    "sum({number})",
    "avg({number})",
    "min({any})",
    "max({any})",
    "string_agg({text}, ',')",
    "array_agg({any})",
    "bool_and({number} > 0)",
    "sum({number}) FILTER (WHERE {number} > 1)",
    "stddev({number})",
    "median({number})",
    "approx_distinct({any})",
)
WINDOWS = (
    "row_number() OVER (ORDER BY {any})",
    "rank() OVER (PARTITION BY {any} ORDER BY {any})",
    "sum({number}) OVER (ORDER BY {any} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "lag({any}) OVER (ORDER BY {any})",
    "lead({any}, 2, NULL) OVER (PARTITION BY {any} ORDER BY {any} DESC NULLS LAST)",
    "first_value({any}) OVER (ORDER BY {any})",
    "ntile(2) OVER (ORDER BY {any})",
    "count(*) OVER ()",
    "avg({number}) OVER (PARTITION BY {any})",
)


def of_kinds(scope: Scope, kinds: tuple[object, ...]) -> list[Cell]:
    return [cell for cell in scope if cell.type.kind in kinds]


def column(speaker: Speaker, scope: Scope) -> str:
    return speaker.of(scope).text


def number(speaker: Speaker, scope: Scope, depth: int = 2, *, compiled: bool = True) -> str:
    found = of_kinds(scope, NUMBERS)
    match speaker.dice.randint(0, 9 if depth else 3):
        case 0 | 1 | 2 if found:
            return speaker.of(found).text
        case 0 | 1 | 2 | 3:
            return speaker.number()
        case 4 | 5:
            left, right = (number(speaker, scope, depth - 1, compiled=compiled) for _ in range(2))
            return f"({left} {speaker.one('+', '-', '*', '/', '%')} {right})"
        case 6:
            call = "abs" if compiled else speaker.of(NUMBER_CALLS)
            return f"{call}({number(speaker, scope, 0)})"
        case 7:
            return f"length({text(speaker, scope, 0)})"
        case 8:
            made = text(speaker, scope, 0)
            kind = speaker.one("INT", "BIGINT", "DOUBLE", "DECIMAL(7, 2)")
            return f"CAST({made} AS {kind})" if speaker.chance(50) else f"{made}::{kind}"
        case _:
            when = condition(speaker, scope, 0, compiled=compiled)
            other = speaker.one(f" ELSE {speaker.number()}", "")
            return f"CASE WHEN {when} THEN {number(speaker, scope, 0)}{other} END"


def text(speaker: Speaker, scope: Scope, depth: int = 2, *, compiled: bool = True) -> str:
    found = of_kinds(scope, TEXTS)
    match speaker.dice.randint(0, 10 if depth else 3):
        case 0 | 1 if found:
            return speaker.of(found).text
        case 0 | 1 | 2:
            return speaker.text()
        case 3:
            return speaker.one("CURRENT_USER", "CURRENT_USER()", "CURRENT_ROLE()", "'x'")
        case 4:
            left = text(speaker, scope, depth - 1, compiled=compiled)
            return f"({left} || {text(speaker, scope, 0)})"
        case 5:
            call = speaker.one("upper", "lower", "trim") if compiled else speaker.of(TEXT_CALLS)
            return f"{call}({text(speaker, scope, 0)})"
        case 6:
            return f"CAST({column(speaker, scope)} AS TEXT)"
        case 7:
            return f"coalesce({text(speaker, scope, 0)}, {speaker.text()})"
        case 8:
            return f"substring({text(speaker, scope, 0)} FROM {speaker.one(0, 1, 2, -1)} FOR 2)"
        case 9 if not compiled:
            call = speaker.of(TEXT_CALLS_2)
            second, third = speaker.one("2", "'a'", "NULL"), speaker.one("", ", 'b'", ", 1")
            return f"{call}({text(speaker, scope, 0)}, {second}{third})"
        case _:
            return f"nullif({text(speaker, scope, 0)}, {speaker.text()})"


def condition(speaker: Speaker, scope: Scope, depth: int = 1, *, compiled: bool = True) -> str:
    cell = speaker.of(scope)
    match speaker.dice.randint(0, 12 if depth else 8):
        case 0 | 1 | 2:
            return f"{cell.text} {speaker.of(COMPARED)} {speaker.value(cell.type)}"
        case 3:
            sign = speaker.of(COMPARED)
            return f"{number(speaker, scope, 0)} {sign} {number(speaker, scope, depth)}"
        case 4:
            return f"{text(speaker, scope, 0)} {speaker.of(COMPARED)} {text(speaker, scope, depth)}"
        case 5:
            word = speaker.one(
                "IS NULL", "IS NOT NULL", "IS DISTINCT FROM 1", "IS NOT DISTINCT FROM NULL"
            )
            return f"{cell.text} {word}"
        case 6:
            values = ", ".join(speaker.value(cell.type) for _ in range(speaker.one(1, 2, 3)))
            if speaker.chance(15) and not speaker.is_batch:
                speaker.params.append([1, 2, None] if cell.type.kind in NUMBERS else ["a", "b"])
                return f"{cell.text} = ANY(${len(speaker.params)})"
            return f"{cell.text} {speaker.one('', 'NOT ')}IN ({values})"
        case 7:
            pattern = speaker.one("'%a%'", "'_'", "'%'", "''", "'%\\_%'", "'a%'", speaker.text())
            return f"{text(speaker, scope, 0)} {speaker.one('LIKE', 'NOT LIKE', 'ILIKE')} {pattern}"
        case 8:
            low, high = (speaker.value(cell.type) for _ in range(2))
            return f"{cell.text} BETWEEN {low} AND {high}"
        case 9:
            return f"NOT ({condition(speaker, scope, depth - 1, compiled=compiled)})"
        case 10 if not compiled:
            return engine_condition(speaker, scope)
        case _:
            left, right = (condition(speaker, scope, depth - 1, compiled=compiled) for _ in "lr")
            return f"({left} {speaker.one('AND', 'AND', 'OR')} {right})"


def engine_condition(speaker: Speaker, scope: Scope) -> str:
    inner = speaker.table()
    column_of = speaker.column_name(inner)
    name = speaker.name(inner)
    match speaker.dice.randint(0, 4):
        case 0:
            return f"{speaker.one('', 'NOT ')}EXISTS (SELECT 1 FROM {name})"
        case 1:
            return f"{column(speaker, scope)} IN (SELECT {column_of} FROM {name})"
        case 2:
            pattern = speaker.one("'^a'", "'('", "'.*'", "'[[:alpha:]]+'")
            return f"{text(speaker, scope, 0)} ~ {pattern}"
        case 3:
            return f"{speaker.of(TIME_CALLS)} > {speaker.of(TIME_CALLS)}"
        case _:
            return f"{number(speaker, scope, 0)} > (SELECT max({column_of}) FROM {name})"


def filled(speaker: Speaker, scope: Scope, template: str) -> str:
    """A template with columns in its places."""
    numbers = of_kinds(scope, NUMBERS) or list(scope)
    texts = of_kinds(scope, TEXTS) or list(scope)
    made = template
    for place, found in (("{number}", numbers), ("{text}", texts), ("{any}", list(scope))):
        while place in made:
            made = made.replace(place, speaker.of(found).text, 1)
    return made


def item(speaker: Speaker, scope: Scope) -> str:
    """An item of a list an engine makes."""
    match speaker.dice.randint(0, 6):
        case 0 | 1:
            return column(speaker, scope)
        case 2:
            return number(speaker, scope, compiled=False)
        case 3:
            return text(speaker, scope, compiled=False)
        case 4:
            return f"({condition(speaker, scope, compiled=False)})"
        case 5:
            return f"CAST({column(speaker, scope)} AS {speaker.of(TYPES)})"
        case _:
            return speaker.of(TIME_CALLS)
