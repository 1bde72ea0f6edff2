# pyright: basic
"""What the columns of a query's result are called, and how the engine is made to agree.

The engine wants every column of a SELECT list under a name of its own; SQL does not. So a column
whose name is there already goes to the engine with a mark and a number behind its name, which
`shown_name` takes off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.model.table import SAME_NAME
from kalamdb.sql.literals import quoted
from kalamdb.sql.projection import unnamed
from kalamdb.sql.reader import word_of
from kalamdb.sql.render import (
    Dynamic,
    Piece,
    Splices,
    Text,
    add,
    add_whole,
    identifier_span,
    text_of,
)
from kalamdb.sql.syntax import Fragment

StarColumns = Callable[[exp.Select, str], set[str]]
"""A SELECT and the qualifier of a `*` in its list → names of columns that it means."""


def name_outputs(query: Fragment, splices: Splices, star_columns: StarColumns) -> None:
    """Give columns without an alias the name of their own text, as the point path does, and columns
    of one name different ones; in every branch of a UNION, though only the names of the first are
    the result's.
    """
    for select, written in _branches(query):
        ranges = select_list(written)
        if len(ranges) == len(select.expressions):
            _name_list(select, ranges, query, splices, star_columns=star_columns)


def _branches(query: Fragment) -> Iterator[tuple[exp.Select, Sequence[Token]]]:
    """The SELECTs of a query outside parentheses, each with its tokens."""
    stack: list[Any] = [query.tree]
    leaves: list[Any] = []
    while stack:
        node = stack.pop()
        if isinstance(node, exp.SetOperation):
            stack += [node.expression, node.this]
        else:
            leaves.append(node)
    written = list(_parted(query.tokens))
    if len(written) != len(leaves):  # what parts them is not plain to see
        written, leaves = [query.tokens], leaves[:1]
    for leaf, tokens in zip(leaves, written, strict=True):
        if isinstance(leaf, exp.Select):
            yield leaf, tokens


def _parted(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    depth = start = 0
    for at, token in enumerate(tokens):
        kind = token.token_type
        depth += (kind in _OPENING) - (kind in _CLOSING)
        if depth == 0 and word_of(token) in _SET_OPERATIONS:
            yield tokens[start:at]
            start = at + 1
    yield tokens[start:]


def _name_list(
    select: exp.Select,
    ranges: Sequence[Sequence[Token]],
    query: Fragment,
    splices: Splices,
    *,
    star_columns: StarColumns,
) -> None:
    kept_names = own_names(query.tree)
    times: dict[str, int] = {}
    taken = _star_names(select, star_columns)
    for number, (node, tokens) in enumerate(zip(select.expressions, ranges, strict=True), 1):
        if _is_star(node) or isinstance(node, exp.Aliases) or not tokens:
            continue
        if isinstance(node, exp.Alias):
            alias = node.args["alias"]
            name = alias.this if alias.quoted else alias.this.lower()
            if name in taken:
                span = identifier_span(alias)
                add(splices, *span, quoted(f"{name}{SAME_NAME}{number}"))
            taken.add(name)
            continue
        plain = unnamed(query.text[tokens[0].start : tokens[-1].end + 1])
        if isinstance(node, exp.Column):
            plain = node.name.lower()
            if plain not in taken:
                taken.add(plain)
                continue
            name = f"{plain}{SAME_NAME}{number}"
        else:
            name = plain
            while name in taken:
                times[plain] = times.get(plain, 1) + 1
                name = f"{plain} ({times[plain]})"
            taken.add(name)
        inner = text_of(tokens, query.text, splices, kept_names=kept_names)
        add_whole(
            splices, tokens[0].start, tokens[-1].end, around("", inner, f" AS {quoted(name)}")
        )


def _is_star(node: Any) -> bool:
    return isinstance(node, exp.Star) or (
        isinstance(node, exp.Column) and isinstance(node.this, exp.Star)
    )


def _star_names(select: exp.Select, star_columns: StarColumns) -> set[str]:
    found: set[str] = set()
    for node in select.expressions:
        if _is_star(node):
            found |= star_columns(select, node.text("table").lower())
    return found


def around(before: str, inner: Text, after: str) -> Piece:
    """A text rendered by itself as one splice."""
    shown = f"{before}{inner.shown}{after}"
    if all(isinstance(part, str) for part in inner.pieces):
        return shown
    return Dynamic(shown, lambda env: f"{before}{inner.render(env)}{after}")


def own_names(tree: exp.Expr) -> frozenset[str]:
    """Quoted names a query gives itself: they keep their case, names of the catalog are folded."""
    found: set[str] = set()
    for node in tree.walk():
        if isinstance(node, (exp.Alias, exp.TableAlias, exp.CTE)):
            names = [
                node.args.get("alias"),
                node.args.get("this"),
                *(node.args.get("columns") or ()),
            ]
            found.update(
                name.this for name in names if isinstance(name, exp.Identifier) and name.quoted
            )
    return frozenset(found)


_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}
_SET_OPERATIONS = frozenset(("UNION", "EXCEPT", "INTERSECT"))
_LIST_ENDS_TEXT = """
FROM WHERE GROUP HAVING ORDER LIMIT OFFSET UNION EXCEPT INTERSECT WINDOW QUALIFY
"""
_LIST_ENDS = frozenset(_LIST_ENDS_TEXT.split())


def select_list(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens of each entry of the first SELECT list outside parentheses."""
    depth = 0
    entries: list[list[Token]] | None = None
    for at, token in enumerate(tokens):
        kind, word = token.token_type, word_of(token)
        if kind in (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE):
            depth += 1
        elif kind in (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END):
            depth -= 1
            if depth < 0:
                break
        elif depth == 0 and entries is None:
            if word == "SELECT":
                entries = [[]]
            continue
        elif depth == 0 and kind is TokenType.COMMA and entries is not None:
            entries.append([])
            continue
        elif depth == 0 and word in _LIST_ENDS and not _is_inside(tokens, at):
            break
        if entries is not None:
            entries[-1].append(token)
    if not entries:
        return []
    entries[0] = _without_distinct(entries[0])
    return entries


def _is_inside(tokens: Sequence[Token], at: int) -> bool:
    """Is the word at `at` part of an expression: IS DISTINCT FROM, WITHIN GROUP?"""
    pair = (word_of(tokens[at - 1]), word_of(tokens[at]))
    return pair in (("DISTINCT", "FROM"), ("WITHIN", "GROUP"))


def _without_distinct(entry: list[Token]) -> list[Token]:
    if not entry or word_of(entry[0]) not in ("DISTINCT", "ALL"):
        return entry
    if len(entry) > 1 and word_of(entry[1]) == "ON":
        depth = 0
        for at, token in enumerate(entry):
            depth += (token.token_type is TokenType.L_PAREN) - (
                token.token_type is TokenType.R_PAREN
            )
            if at > 1 and depth == 0:
                return entry[at + 1 :]
    return entry[1:]
