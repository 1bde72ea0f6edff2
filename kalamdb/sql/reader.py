# pyright: basic
"""A cursor over tokens: what the grammars of statements and definitions are written with.

Keywords are words without quotes, compared without case; names are words or quoted identifiers and
are folded to lower case, because names of namespaces, tables and columns are stored that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.model.catalog import DEFAULT_NAMESPACE
from kalamdb.sql.dialect import error_at
from kalamdb.sql.statement import TableName

_QUOTED = {
    TokenType.STRING,
    TokenType.IDENTIFIER,
    TokenType.BYTE_STRING,
    TokenType.HEX_STRING,
    TokenType.NUMBER,
}
_OPEN = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE}
_CLOSE = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END}

ALL_USERS = "all_users"
# Words that cannot be names without quotes, because a clause begins with them.
_CLAUSE_WORDS = """
SELECT FROM WHERE GROUP ORDER HAVING LIMIT OFFSET UNION EXCEPT INTERSECT ON USING RETURNING SET
VALUES INTO JOIN WITH AS AND OR NOT NULL TABLE CASE WHEN THEN ELSE END CREATE INSERT UPDATE DELETE
DROP ALTER PRIMARY UNIQUE CHECK CONSTRAINT FOREIGN REFERENCES DEFAULT IN IS LIKE BETWEEN EXISTS
DISTINCT ALL
"""
CLAUSE_WORDS = frozenset(_CLAUSE_WORDS.split())


def word_of(token: Token | None) -> str:
    """The upper-case keyword a token begins with, "" when it is none. (GROUP BY is one token.)"""
    words = _words(token)
    return words[0] if words else ""


def _words(token: Token | None) -> list[str]:
    if token is None or token.token_type in _QUOTED:
        return []
    text = token.text
    return text.upper().split() if text[:1].isalpha() or text[:1] == "_" else []


class Reader:
    """Reads `tokens` from `at`; `text` is the text they point into."""

    def __init__(self, tokens: Sequence[Token], text: str) -> None:
        self.tokens = tokens
        self.text = text
        self.at = 0

    # ---- looking ---------------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> Token | None:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def word(self, ahead: int = 0) -> str:
        return word_of(self.peek(ahead))

    def symbol(self, ahead: int = 0) -> TokenType | None:
        token = self.peek(ahead)
        return None if token is None else token.token_type

    @property
    def done(self) -> bool:
        return self.at >= len(self.tokens)

    # ---- taking ----------------------------------------------------------------------------------

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            self.fail("more is expected")
        self.at += 1
        return token

    def accept(self, *words: str) -> bool:
        """Take the words if all of them come next."""
        at, matched = self.at, 0
        while matched < len(words):
            found = _words(self.tokens[at]) if at < len(self.tokens) else []
            if not found or tuple(found) != words[matched : matched + len(found)]:
                return False
            at, matched = at + 1, matched + len(found)
        self.at = at
        return True

    def accept_symbol(self, kind: TokenType) -> bool:
        if self.symbol() is kind:
            self.at += 1
            return True
        return False

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            self.fail(f"{' '.join(words)} is expected")

    def expect_symbol(self, kind: TokenType, shown: str) -> None:
        if not self.accept_symbol(kind):
            self.fail(f"{shown!r} is expected")

    def name(self, what: str) -> str:
        """A name, in lower case. DEFAULT with a dot behind it can only be the namespace."""
        token = self.peek()
        if token is not None and token.token_type is TokenType.IDENTIFIER:
            self.at += 1
            return token.text.lower()
        word = self.word()
        is_namespace = word == DEFAULT_NAMESPACE.upper() and self.symbol(1) is TokenType.DOT
        if not word or (word in CLAUSE_WORDS and not is_namespace):
            self.fail(f"{what} is expected")
        self.at += 1
        return word.lower()

    def string(self, what: str) -> str:
        token = self.peek()
        if token is None or token.token_type is not TokenType.STRING:
            self.fail(f"{what} in single quotes is expected")
        self.at += 1
        return token.text

    def integer(self, what: str) -> int:
        negative = self.accept_symbol(TokenType.DASH)
        token = self.peek()
        if token is None or token.token_type is not TokenType.NUMBER or not token.text.isdecimal():
            self.fail(f"{what} (a whole number) is expected")
        if len(token.text) > 18:
            self.fail(f"{what} is out of range")
        self.at += 1
        return -int(token.text) if negative else int(token.text)

    def table(self) -> TableName:
        """`[[all_users.]namespace.]table`."""
        parts = [self.name("a table name")]
        while self.accept_symbol(TokenType.DOT):
            parts.append(self.name("a table name"))
        match parts:
            case [name]:
                return TableName(None, name)
            case [namespace, name]:
                return TableName(namespace, name)
            case [first, namespace, name] if first == ALL_USERS:
                return TableName(namespace, name, all_users=True)
            case _:
                self.at -= 1
                self.fail(f"a table is [namespace.]table or {ALL_USERS}.namespace.table")

    def namespace(self) -> str:
        """`default` is one without quotes, too, where nothing else can stand."""
        if self.symbol() is not TokenType.IDENTIFIER and self.accept("DEFAULT"):
            return DEFAULT_NAMESPACE
        return self.name("a namespace name")

    def names(self, what: str) -> list[str]:
        """`(name, …)`."""
        self.expect_symbol(TokenType.L_PAREN, "(")
        found = [self.name(what)]
        while self.accept_symbol(TokenType.COMMA):
            found.append(self.name(what))
        self.expect_symbol(TokenType.R_PAREN, ")")
        return found

    # ---- ranges ----------------------------------------------------------------------------------

    def until(self, *stops: str, comma: bool = False) -> list[Token]:
        """Take the tokens up to a stop word (or a comma) outside parentheses, or to their end."""
        start, depth = self.at, 0
        while not self.done:
            token = self.tokens[self.at]
            kind = token.token_type
            if kind in _OPEN:
                depth += 1
            elif kind in _CLOSE:
                if depth == 0:
                    break
                depth -= 1
            elif depth == 0 and ((comma and kind is TokenType.COMMA) or word_of(token) in stops):
                break
            self.at += 1
        return list(self.tokens[start : self.at])

    def parenthesised(self) -> list[Token]:
        """Take `( … )` and give what is inside."""
        self.expect_symbol(TokenType.L_PAREN, "(")
        inside = self.until()
        self.expect_symbol(TokenType.R_PAREN, ")")
        return inside

    # ---- ending ----------------------------------------------------------------------------------

    def end(self) -> None:
        if not self.done:
            self.fail(f"unexpected {self.shown()}")

    def shown(self) -> str:
        token = self.peek()
        return "the end" if token is None else repr(self.text[token.start : token.end + 1][:40])

    def fail(self, detail: str) -> NoReturn:
        raise error_at(self.peek(), detail)
