"""What the query engine says of a statement → the error of the tree it means. The only place that
reads its sentences.

Keeps: a sentence is told by how it begins, since what follows may quote the user's own text. What
no row knows is QueryFailed with the engine's sentence. The compiled path raises the same classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from kalamdb.errors import (
    DivisionByZero,
    InvalidStatement,
    KalamError,
    QueryFailed,
    UnknownColumn,
    UnreadableText,
    Unsupported,
    ValueOutOfRange,
)

_SQL_NAMES = {
    "Int16": "SMALLINT",
    "Int32": "INT",
    "Int64": "BIGINT",
    "Float32": "FLOAT",
    "Float64": "DOUBLE",
    "Boolean": "BOOLEAN",
    "Date32": "DATE",
    "Time64": "TIME",
}
_SHOWN_MAX = 60
Found = re.Match[str]


def _no_field(found: Found) -> KalamError:
    return UnknownColumn(found[1].replace('"', ""), None)


def _same_name(found: Found) -> KalamError:
    name = re.search(r"(\w+)$", found[1])
    column = "a column" if name is None else f"column {name[1]}"
    return InvalidStatement(f"{column} is there twice in one SELECT list: give one another name")


def _no_function(found: Found) -> KalamError:
    return Unsupported(f"function {found[1]}()", "the SQL reference lists the functions")


def _correlated(found: Found) -> KalamError:
    return Unsupported(
        "a correlated subquery here", "aggregate it (max, count), join, or put EXISTS into WHERE"
    )


def _divided(found: Found) -> KalamError:
    return DivisionByZero()


def _unreadable(found: Found) -> KalamError:
    return UnreadableText(f"cannot cast the text {found[1][:_SHOWN_MAX]!r} to {_named(found[2])}")


def _unreadable_moment(found: Found) -> KalamError:
    return UnreadableText(f"cannot cast the text {found[1][:_SHOWN_MAX]!r} to TIMESTAMP")


def _unreadable_otherwise(found: Found) -> KalamError:
    return UnreadableText(found.string)


def _out_of_range(found: Found) -> KalamError:
    return ValueOutOfRange(None, _named(found[2]), found[1][:_SHOWN_MAX])


def _overflow(found: Found) -> KalamError:
    return ValueOutOfRange(None, "its type", found.string)


def _dimensions(found: Found) -> KalamError:
    return QueryFailed(f"vectors of {found[1]} and {found[2]} dimensions have no distance")


def _some_dimensions(found: Found) -> KalamError:
    return QueryFailed("vectors of different dimensions have no distance")


def _named(arrow_type: str) -> str:
    """The SQL name of a type as the engine writes it: `Int32`, `Decimal128(38, 10)`."""
    word = re.match(r"\w+", arrow_type)
    name = "" if word is None else word[0]
    return _SQL_NAMES.get(name, name.rstrip("0123456789").upper())


_ROWS: Sequence[tuple[str, Callable[[Found], KalamError]]] = (
    (r"No field named ([\w.\"]+?)\.?(?:\s|$)", _no_field),
    (r"Invalid function '([^']+)'", _no_function),
    (r"Projections require unique expression names but the expression \"(.*?)\"", _same_name),
    (r"Schema contains qualified field name (\S+) and unqualified field name", _same_name),
    (r"Divide by zero error", _divided),
    (r"Cannot cast (?:string|value) '(.*)' to value of ([\w(), ]+) type$", _unreadable),
    (r"Error parsing timestamp from '(.*)': ", _unreadable_moment),
    (r"Cannot cast (?:string|value) '", _unreadable_otherwise),  # too long to be whole
    (r"Error parsing timestamp from '", _unreadable_otherwise),
    (r"Invalid input syntax for type", _unreadable_otherwise),
    (r"Can't cast value (\S+) to type (\w+)", _out_of_range),
    (r"Invalid argument error: (\S+) is too (?:large|small) to store in a (\w+)", _out_of_range),
    (r"(?:Arithmetic overflow: )?Overflow happened on", _overflow),
    (r"\w+Array overflow on", _overflow),
    (r"\w+ requires both list inputs to have the same length, got (\d+) and (\d+)", _dimensions),
    (r"Both arrays must have the same length", _some_dimensions),
    (r".*Correlated scalar subquery must be aggregated", _correlated),
    (r".*Physical plan does not support logical expression", _correlated),
)
_TABLE = tuple((re.compile(pattern, re.DOTALL), made) for pattern, made in _ROWS)


def refused(detail: str) -> KalamError:
    """What the engine said of a statement (without the names of its layers), as the error it
    means.
    """
    for pattern, made in _TABLE:
        found = pattern.match(detail)
        if found is not None:
            return made(found)
    return QueryFailed(detail)
