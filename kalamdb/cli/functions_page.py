"""`docs/reference/functions.md`, made from what is compiled and what the query engine brings.

Keeps: a name that stands for another function is shown once, beside it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from kalamdb.query.engine import EngineFunction, functions
from kalamdb.sql.distances import FUNCTIONS as DISTANCES
from kalamdb.sql.functions import FUNCTIONS
from kalamdb.sql.unsupported import FUNCTIONS as UNSUPPORTED

HEAD = """# Functions

Names are written in any case. `[ ]` may be left out. This page is printed by `kalam functions` and
checked against the code.

## Compiled

They work everywhere: in WHERE, SET, CHECK, ON CONFLICT, RETURNING, live queries of one table, and
in statements that never see the query engine.

"""

OPERATORS = """
So are `CAST(x AS type)` and `x::type` between plain types, `CASE`, `||`, `LIKE`, `ILIKE`, `IN`,
`BETWEEN`, `IS [NOT] NULL`, `IS [NOT] DISTINCT FROM`, and arithmetic. `NOW()` is the same as
`CURRENT_TIMESTAMP`.

## Drawn

As defaults, and in queries, new for each row: `SNOWFLAKE_ID()` (BIGINT), `UUID_V7()`, `ULID()`
(TEXT).

## Of vectors

`COSINE_DISTANCE(a, b)`, `L2_DISTANCE(a, b)`, `INNER_PRODUCT(a, b)` and the operators `<=>`, `<->`,
`<#>`, in queries: see [vectors](sql.md#vectors).

## Of the query engine

In SELECT, in live queries that are evaluated anew, and in the WHERE and SET of UPDATE and DELETE;
such a statement is the engine's. They are those of Apache DataFusion, which are not always
PostgreSQL's: see [differences](postgresql.md#functions-and-operators). Lists come as JSON texts.
Each `array_…` function can be called `list_…` too. `version()` names KalamDB's. Those that speak of
the engine's own types and files (`arrow_cast`, `arrow_typeof` and their kin) are refused.
"""

_HEADS = {"SCALAR": "Of one row", "AGGREGATE": "Of many rows", "WINDOW": "Of a window"}

NOT_SHOWN = {*UNSUPPORTED, *DISTANCES, "version"}
"""What is refused, and what has another meaning here than the engine's."""

# Functions of their own whose form is that of another.
_OWN = {"bool_or": "bool_or(expression)", "covar_pop": "covar_pop(expression1, expression2)"}


def page() -> str:
    """The whole page."""
    compiled = sorted(kind.sql_names()[0] for kind in FUNCTIONS)
    named = textwrap.fill(", ".join(f"`{name}`" for name in compiled) + ".", 100)
    lines = [HEAD + named, OPERATORS]
    known = functions()
    for kind, head in _HEADS.items():
        lines += [f"### {head}", "", "```text"]
        lines += _forms([function for function in known if function.kind == kind])
        lines += ["```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _forms(known: Iterable[EngineFunction]) -> Iterator[str]:
    """Each function by its form, with its other names behind it."""
    names: dict[str, list[str]] = {}
    for function in known:
        if function.name.startswith("list_") or function.name in NOT_SHOWN:
            continue
        form = _OWN.get(function.name, function.form)
        names.setdefault(form, []).append(function.name)
    for form, called in sorted(names.items()):
        first = form.partition("(")[0]
        others = [name for name in called if name != first]
        ways = form.splitlines()
        yield from ways[:-1]
        yield ways[-1] + (f"    also {', '.join(others)}" if others else "")
