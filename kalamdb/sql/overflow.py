# pyright: basic
"""Marks every `+`, `-`, `*`, unary minus and SUM of a text for the engine (`marks.py`).

The tokens are read by the precedence that PostgreSQL and the engine share:

1. an operand begins where no word of the grammar stands: a name, a literal, `(`, a sign, CASE;
2. signs bind tighter than `*`, `/`, `%`, and those tighter than `+` and `-`; `::`, brackets and
   AT TIME ZONE bind tightest; whatever else follows ends the operand;
3. what is inside brackets and CASE is read the same way.

Types that are plain to see (columns, literals, casts) are noted as hints, and where they are no
integers nothing is marked.

Keeps: an operator is left without a mark only where its operands surely are no integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import Unsupported
from kalamdb.model.types import Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.marks import END, NEXT, Hint, begin, wider
from kalamdb.sql.operand_types import Types
from kalamdb.sql.operands import parameter
from kalamdb.sql.precedence import (
    AFTER_CALL,
    OF_TYPE,
    UNITS,
    closed,
    ended,
    kind_at,
    word_at,
)
from kalamdb.sql.render import Dynamic, Splices, add, add_after, add_before
from kalamdb.sql.syntax import Fragment

Known = Hint | Callable[[Env], Hint]
"""A hint, or what makes it of the parameters of a run."""

_SUMS = {TokenType.PLUS, TokenType.DASH}
_PRODUCTS = {TokenType.STAR, TokenType.SLASH, TokenType.MOD}
_SIGNS = {TokenType.DASH, TokenType.PLUS, TokenType.TILDE}
_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET}
_VALUES = {
    TokenType.NUMBER,
    TokenType.STRING,
    TokenType.IDENTIFIER,
    TokenType.PARAMETER,
    TokenType.BYTE_STRING,
    TokenType.HEX_STRING,
    TokenType.L_PAREN,
    TokenType.L_BRACKET,
}
_QUOTED = {TokenType.IDENTIFIER, TokenType.STRING, TokenType.BYTE_STRING, TokenType.HEX_STRING}
_GRAMMAR_TEXT = """
ALL AND ANTI AS ASC BETWEEN BY CROSS DESC DISTINCT ELSE END ESCAPE EXCEPT FETCH FOR FROM FULL GROUP
HAVING ILIKE IN INNER INTERSECT INTO IS ISNULL JOIN LATERAL LIKE LIMIT NATURAL NOT NOTNULL OFFSET ON
OR ORDER OUTER OVERLAPS PARTITION QUALIFY RETURNING RLIKE SELECT SEMI SET SIMILAR SYMMETRIC THEN TO
UNION USING VALUES WHEN WHERE WINDOW WITH
"""
_GRAMMAR = frozenset(_GRAMMAR_TEXT.split())
_TYPE_WORDS: dict[str, Hint] = {
    **dict.fromkeys(("BIGINT", "INT8"), "b"),
    **dict.fromkeys(("INT", "INTEGER", "INT4"), "i"),
    **dict.fromkeys(("SMALLINT", "INT2"), "h"),
    **dict.fromkeys(("DOUBLE", "REAL", "FLOAT8", "FLOAT4"), "o"),
}
_KINDS: dict[Kind, Hint] = {
    Kind.BIGINT: "b",
    Kind.INT: "i",
    Kind.SMALLINT: "h",
    Kind.DECIMAL: "d",
    **dict.fromkeys((Kind.FLOAT, Kind.DOUBLE), "o"),
    **dict.fromkeys((Kind.TIMESTAMP, Kind.DATETIME, Kind.DATE, Kind.TIME), "o"),
}
_OPERATORS = (exp.Add, exp.Sub, exp.Mul)
_BIGINT_DIGITS = 18  # any number of so many fits


def splice_overflow(splices: Splices, fragment: Fragment, types: Types) -> None:
    """Mark what may overflow in a fragment. Before other marks behind operands.

    Raises Unsupported where the tree has operators that were not found among the tokens.
    """
    tokens = fragment.tokens
    if not any(_may_overflow(tokens, at) for at in range(len(tokens))):
        return
    reader = _Reader(splices, fragment, types)
    reader.read(0, len(tokens))
    if reader.found < sum(isinstance(node, _OPERATORS) for node in fragment.tree.walk()):
        raise Unsupported("this way of writing + - *", "put the operands in parentheses")


def _may_overflow(tokens: Sequence[Token], at: int) -> bool:
    kind = tokens[at].token_type
    return kind in _SUMS or kind is TokenType.STAR or _is_total(tokens, at)


def _is_total(tokens: Sequence[Token], at: int) -> bool:
    """Is this SUM ( … )?"""
    return tokens[at].text.lower() == "sum" and kind_at(tokens, at + 1) is TokenType.L_PAREN


class _Reader:
    """Reads operands from an index on; each gives the index behind it and what its type is."""

    def __init__(self, splices: Splices, fragment: Fragment, types: Types) -> None:
        self._splices = splices
        self._tokens = fragment.tokens
        self._types = types
        self._columns = {
            node.this.meta.get("start"): node
            for node in fragment.tree.find_all(exp.Column)
            if isinstance(node.this, exp.Identifier)
        }
        self.found = 0
        """Operators with two operands."""

    def read(self, at: int, end: int) -> None:
        """All operands from `at` to before `end`."""
        while at < end:
            if self._starts(at):
                at, _ = self._sum(at)
            elif self._is_distinct_on(at):
                inner, at = at + 3, closed(self._tokens, at + 2)
                self.read(inner, at - 1)
            else:
                at += 1

    def _is_distinct_on(self, at: int) -> bool:
        """Its list is no operand: what follows it begins one."""
        words = word_at(self._tokens, at), word_at(self._tokens, at + 1)
        return words == ("DISTINCT", "ON") and kind_at(self._tokens, at + 2) in _OPENING

    def _starts(self, at: int) -> bool:
        kind = kind_at(self._tokens, at)
        if kind is None:
            return False
        if kind in _VALUES or kind in _SIGNS:
            return True
        text = self._tokens[at].text
        if not (text[:1].isalpha() or text[:1] == "_"):
            return False
        is_grammar = text.upper().split(None, 1)[0] in _GRAMMAR
        return not is_grammar or self._tokens[at].start in self._columns

    # ---- operators ------------------------------------------------------------------------------

    def _sum(self, at: int) -> tuple[int, Known]:
        first = at
        at, known = self._product(at)
        while kind_at(self._tokens, at) in _SUMS and self._starts(at + 1):
            operator = at
            at, right = self._product(at + 1)
            known = _wider(known, right)
            self.found += 1
            self._mark(first, operator, at, known)
        return at, known

    def _product(self, at: int) -> tuple[int, Known]:
        first = at
        at, known = self._signed(at)
        while kind_at(self._tokens, at) in _PRODUCTS and self._starts(at + 1):
            operator = at
            at, right = self._signed(at + 1)
            known = _wider(known, right)
            if kind_at(self._tokens, operator) is TokenType.STAR:
                self.found += 1
                self._mark(first, operator, at, known)
        return at, known

    def _signed(self, at: int) -> tuple[int, Known]:
        sign = kind_at(self._tokens, at)
        if sign not in _SIGNS:
            at, known = self._postfixes(*self._primary(at))
            if kind_at(self._tokens, at) is not TokenType.CARET:
                return at, known
            return self._signed(at + 1)[0], "?"
        first = at
        negative = sign is TokenType.DASH
        number = negative and kind_at(self._tokens, at + 1) is TokenType.NUMBER
        at, known = self._signed(at + 1)
        if negative and not number:
            self._mark(first, first, at, known)
        return at, known if sign is not TokenType.TILDE else "?"

    def _mark(self, first: int, operator: int, end: int, known: Known) -> None:
        """Tokens `first` to before `end` are one operation, its sign at `operator`."""
        if known in ("d", "o"):
            return
        token, last = self._tokens[operator], self._tokens[end - 1]
        owner = token.start
        if operator == first:
            add(self._splices, owner, token.end, _begin("n", known, token.text))
        else:
            before = _begin(token.text, known, "")
            add_before(self._splices, self._tokens[first].start, owner, before)
            add(self._splices, owner, token.end, _fixed(NEXT, token.text))
        add_after(self._splices, last.start, owner, _fixed(END, ""))

    # ---- operands -------------------------------------------------------------------------------

    def _primary(self, at: int) -> tuple[int, Known]:
        token = self._tokens[at]
        match token.token_type:
            case TokenType.L_PAREN | TokenType.L_BRACKET:
                return self._brackets(at)
            case TokenType.CASE:
                end = ended(self._tokens, at)
                self.read(at + 1, end - 1)
                return end, "?"
            case TokenType.PARAMETER:
                return at + 2, self._parameter(at + 1)
            case TokenType.INTERVAL:
                return (at + 3 if word_at(self._tokens, at + 2) in UNITS else at + 2), "o"
            case TokenType.NUMBER:
                short = token.text.isdecimal() and len(token.text) <= _BIGINT_DIGITS
                return at + 1, "b" if short else "?"
            case _:
                return self._named(at)

    def _named(self, at: int) -> tuple[int, Known]:
        """A column, a call, a type with a text: DATE '2026-01-01'."""
        if self._tokens[at].token_type is not TokenType.STRING and _is_total(self._tokens, at):
            return self._total(at)
        first = at
        at += 1
        while kind_at(self._tokens, at) is TokenType.DOT:
            at += 2
        if kind_at(self._tokens, at) is TokenType.STRING:
            return at + 1, "?"
        known: Known = "?"
        if kind_at(self._tokens, at) is TokenType.L_PAREN:
            word = self._tokens[first].text.upper()
            inner, at = at, closed(self._tokens, at)
            self.read(inner + 1, at - 1)
            known = self._called(word, inner, at)
            at = self._behind_call(at)
        elif self._tokens[first].token_type not in (TokenType.STRING, TokenType.BYTE_STRING):
            known = self._column(self._tokens[at - 1])
        return at, known

    def _called(self, word: str, opening: int, end: int) -> Known:
        """The type of a call whose brackets are `opening` to before `end`."""
        if word == "COUNT":
            return "b"
        if word == "CAST" and word_at(self._tokens, end - 3) == "AS":
            return _TYPE_WORDS.get(word_at(self._tokens, end - 2), "?")
        return "?"

    def _behind_call(self, at: int) -> int:
        """The index behind FILTER (…), WITHIN GROUP (…) and OVER (…)."""
        while word_at(self._tokens, at) in AFTER_CALL:
            named = kind_at(self._tokens, at + 1) not in _OPENING
            over = word_at(self._tokens, at) == "OVER"
            at += 1
            if named and over:
                return at + 1
            while word_at(self._tokens, at) in AFTER_CALL:
                at += 1
            if kind_at(self._tokens, at) is not TokenType.L_PAREN:
                return at
            inner, at = at + 1, closed(self._tokens, at)
            self.read(inner, at - 1)
        return at

    def _total(self, at: int) -> tuple[int, Known]:
        """SUM ( [DISTINCT] argument [ORDER BY …] ) [FILTER …] [OVER …]"""
        tokens, first = self._tokens, at
        distinct = word_at(tokens, at + 2) == "DISTINCT"
        head = at + 2 if distinct or word_at(tokens, at + 2) == "ALL" else at + 1
        end = closed(tokens, at + 1)
        behind, known = self._sum(head + 1) if self._starts(head + 1) else (head + 1, "?")
        if behind != end - 1:
            known = "?"
            self.read(behind, end - 1)
        after = self._behind_call(end)
        if known in ("o", "i", "h"):
            return after, "b" if known != "o" else "o"
        told = "?" if known == "d" else known  # a wide DECIMAL has no room for its SUM
        owner = tokens[first].start
        shown = "SUM (DISTINCT" if distinct else "SUM ("
        piece = _begin("d" if distinct else "s", told, shown)
        add(self._splices, owner, tokens[head].end, piece)
        ordered = self._ordering(head + 1, end - 1)
        add_after(self._splices, tokens[ordered - 1].start, owner, _fixed(NEXT, ""))
        add(self._splices, tokens[end - 1].start, tokens[end - 1].end, _fixed(NEXT, ")"))
        add_after(self._splices, tokens[after - 1].start, owner, _fixed(END, ""))
        return after, known

    def _ordering(self, at: int, end: int) -> int:
        """The index of ORDER BY of an aggregate's own, `end` without."""
        while at < end:
            if word_at(self._tokens, at).startswith("ORDER"):
                return at
            at = closed(self._tokens, at) if kind_at(self._tokens, at) in _OPENING else at + 1
        return end

    def _brackets(self, at: int) -> tuple[int, Known]:
        end = closed(self._tokens, at)
        if self._starts(at + 1) and kind_at(self._tokens, at) is TokenType.L_PAREN:
            behind, known = self._sum(at + 1)
            self.read(behind, end - 1)
            return end, known if behind == end - 1 else "?"
        self.read(at + 1, end - 1)
        return end, "?"

    def _postfixes(self, at: int, known: Known) -> tuple[int, Known]:
        tokens = self._tokens
        while True:
            match kind_at(tokens, at):
                case TokenType.DCOLON:
                    known = _TYPE_WORDS.get(word_at(tokens, at + 1), "?")
                    at += 2
                    while word_at(tokens, at) in OF_TYPE:
                        at += 1
                    if kind_at(tokens, at) is TokenType.L_PAREN:
                        at = closed(tokens, at)
                case TokenType.L_BRACKET:
                    end = closed(tokens, at)
                    self.read(at + 1, end - 1)
                    at, known = end, "?"
                case _ if [word_at(tokens, at + n) for n in range(3)] == ["AT", "TIME", "ZONE"]:
                    at, known = self._primary(at + 3)[0], "o"
                case _:
                    return at, known

    def _column(self, token: Token) -> Known:
        node = self._columns.get(token.start)
        if node is None or _is_alias(node):
            return "?"
        found = self._types.type_of(node)
        return "?" if found is None else _KINDS.get(found.kind, "?")

    def _parameter(self, at: int) -> Known:
        text = self._tokens[at].text if at < len(self._tokens) else ""
        if not text.isdecimal():
            return "?"
        index = int(text) - 1

        def known(env: Env) -> Hint:
            return "b" if type(parameter(env, index)) is int else "?"

        return known


def _is_alias(column: Any) -> bool:
    """Is its name one that its SELECT gives as well? The engine may mean that in ORDER BY."""
    select = column.find_ancestor(exp.Select)
    listed = () if select is None else select.expressions
    name = column.name.lower()
    return any(isinstance(node, exp.Alias) and node.alias.lower() == name for node in listed)


def _wider(one: Known, other: Known) -> Known:
    if isinstance(one, str) and isinstance(other, str):
        return wider(one, other)
    if "o" in (one, other):
        return "o"
    return lambda env: wider(_of_run(one, env), _of_run(other, env))


def _of_run(known: Known, env: Env) -> Hint:
    return known if isinstance(known, str) else known(env)


def _begin(operator: str, known: Known, shown: str) -> Dynamic:
    return Dynamic(shown, lambda env: begin(operator, _of_run(known, env)))


def _fixed(mark: str, shown: str) -> Dynamic:
    return Dynamic(shown, lambda env: mark)
