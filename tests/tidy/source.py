"""Rules of one source file, as functions of its path and text that return what they found.

Each finding reads `path:line: what is wrong`. The rules know nothing of this repository but
the tables below, so the tests of the rules give them made-up files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
POSITIONAL_MAX = 5

# Files and functions that may be longer, each with the reason why it cannot be two.
# "kalamdb/some/file.py" or "kalamdb/some/file.py::Class.method" → reason
LONGER: dict[str, str] = {"kalamdb/config.py": "one tree of settings"}

# The files of the tests that may let real time pass: everybody else waits with tests.waiting.
MAY_SLEEP = frozenset({"tests/waiting.py"})

DRAWERS = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "misc"})
CONTAINERS = ("Context", "Manager", "Registry", "App")
SQL_NAMES = frozenset({"sql", "query", "sql_text", "query_text", "statement_text"})
STRING_TESTS = frozenset(
    {"upper", "lower", "casefold", "startswith", "endswith", "removeprefix", "partition"}
)
REGEX_CALLS = frozenset({"match", "fullmatch", "search", "findall", "finditer", "split", "sub"})
DICE = frozenset({"random", "randint", "randrange", "choice", "choices", "shuffle", "sample"})

# One letter in brackets each, or this file would find itself.
MARKS = re.compile(r"\b(?:T[O]DO|F[I]XME|X[X]X)\b")
PRIVATE = re.compile(
    r"(?<![\w.$}-])/(?:w[o]rk|f[a]rm)/|\.\./s[h]ared\b|/tmp/v[/]v\b|(?i:\biss[u]e #?\d+\b)"
)


def parse(text: str) -> ast.Module:
    return ast.parse(text)


# ── shape ────────────────────────────────────────────────────────────────────────────────────────


def file_size(path: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > FILE_LINES_MAX and path not in LONGER:
        yield f"{path}:1: {lines} lines, at most {FILE_LINES_MAX}: which noun wants its own file?"


def function_shape(path: str, text: str) -> Iterator[str]:
    """Functions that are too long or take too many positional parameters."""
    for name, function in functions(parse(text)):
        if f"{path}::{name}" in LONGER:
            continue
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            where = f"{path}:{function.lineno}"
            yield f"{where}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
        given = [*function.args.posonlyargs, *function.args.args]
        if given and given[0].arg in ("self", "cls"):
            given = given[1:]
        if len(given) > POSITIONAL_MAX:
            yield (
                f"{path}:{function.lineno}: {name} takes {len(given)} positional parameters, "
                f"at most {POSITIONAL_MAX}: make the rest keyword-only"
            )


def functions(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its dotted name, inner ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def module_docstring(path: str, text: str) -> Iterator[str]:
    if not ast.get_docstring(parse(text)):
        yield f"{path}:1: no module docstring: say what it owns and what it keeps"


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def drawer_name(path: str) -> Iterator[str]:
    """A file or directory named for nothing in particular."""
    for part in PurePosixPath(path).with_suffix("").parts:
        words = set(part.lower().strip("_").split("_"))
        if words & DRAWERS:
            yield f"{path}:1: {part} names a drawer, not a noun"


def container_types(path: str, text: str) -> Iterator[str]:
    """Parameters typed as something that has everything (trap: the god object)."""
    for name, function in functions(parse(text)):
        arguments = function.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            if argument.annotation is None:
                continue
            for node in ast.walk(argument.annotation):
                type_name = last_name(node)
                if type_name is not None and type_name.endswith(CONTAINERS):
                    yield (
                        f"{path}:{function.lineno}: {name} takes a {type_name}: "
                        "pass the few things it uses"
                    )


# ── marks and private words ──────────────────────────────────────────────────────────────────────


def marks(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if found := MARKS.search(line):
            yield f"{path}:{number}: {found[0]}: do it, or describe the limit in the documents"


def private_words(path: str, text: str) -> Iterator[str]:
    """Paths of one machine and references to notes a reader of the repository does not have."""
    for number, line in enumerate(text.splitlines(), start=1):
        if found := PRIVATE.search(line):
            yield f"{path}:{number}: {found[0]!r} means nothing to a reader of the repository"


# ── SQL is parsed, never looked at ───────────────────────────────────────────────────────────────


def sql_read_as_text(path: str, text: str) -> Iterator[str]:
    """String methods, regular expressions and `in` on names that hold SQL."""
    for node in ast.walk(parse(text)):
        if not isinstance(node, ast.Call | ast.Compare):
            continue
        found: str | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method, owner = node.func.attr, node.func.value
            if method in STRING_TESTS and is_sql(owner):
                found = f".{method}() on SQL text"
            elif method in REGEX_CALLS and any(is_sql(argument) for argument in node.args):
                found = f"a regular expression ({method}) over SQL text"
        elif isinstance(node, ast.Compare) and any(
            isinstance(operator, ast.In | ast.NotIn) and is_sql(right)
            for operator, right in zip(node.ops, node.comparators, strict=True)
        ):
            found = "`in` over SQL text"
        if found is not None:
            yield f"{path}:{node.lineno}: {found}: only kalamdb.sql reads it, by parsing"


def is_sql(node: ast.expr) -> bool:
    """Is this text under an SQL name: `sql`, `self.sql`, `sql.strip()`, `sql[:9]`?"""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in STRING_TESTS | {"strip", "lstrip", "rstrip"} and is_sql(
            node.func.value
        )
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Slice) and is_sql(node.value)
    return last_name(node) in SQL_NAMES


def last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value  # an annotation in quotes
    return None


# ── tests have no sleep and no dice ──────────────────────────────────────────────────────────────


def sleeps(path: str, text: str) -> Iterator[str]:
    """`time.sleep` and `asyncio.sleep`, also imported by name; `asyncio.sleep(0)` only yields."""
    if path in MAY_SLEEP:
        return
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "asyncio"):
            if any(alias.name == "sleep" for alias in node.names):
                yield f"{path}:{node.lineno}: import of sleep: use tests.waiting"
        elif isinstance(node, ast.Call) and module_call(node) in (
            ("time", "sleep"),
            ("asyncio", "sleep"),
        ):
            if module_call(node) == ("asyncio", "sleep") and is_zero(node):
                continue
            yield f"{path}:{node.lineno}: sleep: wait on a condition with tests.waiting"


def dice(path: str, text: str) -> Iterator[str]:
    """Calls of the module-wide generator of `random`, whose state nobody owns."""
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Call):
            module, function = module_call(node)
            if module == "random" and function in DICE:
                yield f"{path}:{node.lineno}: random.{function}: take a random.Random(seed)"


def module_call(node: ast.Call) -> tuple[str, str]:
    """(module, function) of a call written `module.function(…)`; empty strings for any other."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.value.id, node.func.attr
    return "", ""


def is_zero(node: ast.Call) -> bool:
    arguments = node.args
    return (
        len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value == 0
    )
