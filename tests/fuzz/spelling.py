"""Statements spelled from the forms of the statement table, each choice by dice.

What the reference promises is said here in any combination, over the tables there are: a form that
gets a new part is spoken from that moment on.
"""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.sql.forms import Again, Choice, Form, Text, parse_form
from kalamdb.sql.statement_entry import SAMPLES
from kalamdb.sql.statement_table import TABLE
from tests.fuzz import definitions, expressions, queries, writes
from tests.fuzz.speaker import TYPES, Speaker, cells, quoted

FORMS: dict[str, tuple[Form, ...]] = {
    entry.kind.__name__: tuple(map(parse_form, entry.forms)) for entry in TABLE
}
KINDS = tuple(FORMS)
# Their forms would end those who speak, or stand in the way of the others for good.
MILD = {"AlterUser": ("'u1'", "'u2'"), "DropUser": ("'u1'", "'u2'"), "CreateUser": ("'u1'", "'u2'")}
MAY_BE_DROPPED = ("t1", "t2", "t3", "t4")


def spelled(speaker: Speaker, kind: str) -> str:
    """A statement of this kind, by one of its forms."""
    speaker.is_batch = True
    table = speaker.table()
    words = list(_words(speaker, speaker.of(FORMS[kind])))
    return " ".join(_filled(speaker, kind, table, word) for word in words)


def _words(speaker: Speaker, form: Form) -> Iterator[str]:
    for element in form:
        match element:
            case Text(text):
                yield text
            case Choice(parts, optional):
                if not optional or speaker.chance(40):
                    yield from _words(speaker, speaker.of(parts))
            case Again(again, comma):
                while speaker.chance(35):
                    yield from [","] if comma else []
                    yield from _words(speaker, (again,))


def _filled(speaker: Speaker, kind: str, table: definitions.TableDef, word: str) -> str:
    if not (word[0].isalpha() and word.islower()):
        return word
    if speaker.chance(5):
        return speaker.of(SAMPLES[word])
    scope = cells(table)
    match word:
        case "table" if kind == "DropTable":
            return f"app.{speaker.of(MAY_BE_DROPPED)}"
        case "table":
            return speaker.name(table)
        case "view":
            return speaker.one(speaker.view(), "app.v1", "app.v2")
        case "column":
            return speaker.column_name(table)
        case "columns" | "list":
            return ", ".join(quoted(one.name) for one in speaker.some(table.columns, 2))
        case "condition":
            return expressions.condition(speaker, scope)
        case "constraint":
            return f"CHECK ({expressions.condition(speaker, scope, 0)})"
        case "definition":
            return definitions.column_text(speaker, speaker.new_name())
        case "change":
            return definitions.change(speaker, table)
        case "assignment":
            column = speaker.column(table)
            return f"{quoted(column.name)} = {speaker.value(column.type)}"
        case "value":
            return speaker.value(speaker.column(table).type)
        case "row":
            return "(" + ", ".join(speaker.value(one.type) for one in table.columns) + ")"
        case "type":
            return speaker.of(TYPES)
        case "query":
            return queries.select(speaker)
        case "statement":
            return speaker.one(queries.simple, writes.write)(speaker)
        case "namespace" if kind == "DropNamespace":
            return speaker.one("other", "mine")
        case "namespace":
            return speaker.one("app", "app", "other", "mine", "nowhere")
        case "user":
            return speaker.of(MILD[kind]) if kind in MILD else speaker.user_name()
        case "id":
            return speaker.id()
        case "index":
            return speaker.one("i1", "i2", "app.i1")
        case "number":
            return speaker.one("0", "1", "5", "-1", "99999999999")
        case "mode":
            return speaker.one(
                "READ ONLY",
                "READ WRITE",
                "ISOLATION LEVEL REPEATABLE READ",
                "ISOLATION LEVEL SERIALIZABLE",
            )
        case "option" | "property":
            return speaker.of(definitions.OPTIONS)
        case "subscription":
            return speaker.one(
                "last_rows = 20", "batch_size = 5", "from = 0", "nope = 1", "last_rows = -1"
            )
        case "role":
            return speaker.one("user", "service", "dba", "system", "nope")
        case _:
            return speaker.of(SAMPLES[word])
