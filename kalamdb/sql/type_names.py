# pyright: basic
"""SQL names of column types, read from tokens: one table for CREATE TABLE and CAST."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.model.types import (
    DECIMAL_PRECISION_MAX,
    EMBEDDING_SIZE_MAX,
    ColumnType,
    Kind,
)
from kalamdb.sql.reader import Reader

_WORDS: dict[Kind, str] = {
    Kind.BOOLEAN: "BOOLEAN BOOL",
    Kind.SMALLINT: "SMALLINT INT2 SMALLSERIAL SERIAL2",
    Kind.INT: "INT INTEGER INT4 MEDIUMINT SERIAL SERIAL4 SIGNED",
    Kind.BIGINT: "BIGINT INT8 INT64 BIGSERIAL SERIAL8",
    Kind.FLOAT: "FLOAT REAL FLOAT4",
    Kind.DOUBLE: "DOUBLE FLOAT8 FLOAT64",
    Kind.DECIMAL: "DECIMAL NUMERIC DEC",
    Kind.TEXT: "TEXT CHAR CHARACTER VARCHAR NVARCHAR NCHAR CLOB STRING BPCHAR TINYTEXT MEDIUMTEXT"
    " LONGTEXT CITEXT ENUM SET ARRAY STRUCT",
    Kind.BYTES: "BYTES BINARY VARBINARY BLOB BYTEA",
    Kind.JSON: "JSON JSONB",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.DATETIME: "DATETIME TIMESTAMPTZ",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.UUID: "UUID",
    Kind.EMBEDDING: "EMBEDDING",
    Kind.FILE: "FILE",
}
KIND_OF = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_SERIAL_WORDS = """
SMALLSERIAL SERIAL2 SERIAL SERIAL4 BIGSERIAL SERIAL8
"""
SERIAL_WORDS = frozenset(_SERIAL_WORDS.split())
_CHARACTERS_TEXT = """
CHAR CHARACTER VARCHAR NVARCHAR NCHAR BPCHAR
"""
_CHARACTERS = frozenset(_CHARACTERS_TEXT.split())
_TEXT_LENGTH_MAX = 10_485_760
_ENUM_MAX = 1000


@dataclass(frozen=True, slots=True)
class TypeSyntax:
    """A type with what its name asks for besides: numbering, a length, a list of words."""

    type: ColumnType
    serial: bool = False
    length_max: int | None = None
    words: tuple[str, ...] | None = None


def read_type(reader: Reader) -> TypeSyntax:
    """Take a type name with its arguments. Raises SyntaxInvalid, InvalidDefinition, Unsupported."""
    word = reader.word()
    kind = KIND_OF.get(word)
    if kind is None and word.endswith(("TEXT", "STRING")):
        kind = Kind.TEXT
    if kind is None:
        if not word:
            reader.fail("a column type is expected")
        raise Unsupported(f"type {word}", "see the list of column types in the SQL reference")
    reader.take()
    found = _arguments(reader, word, kind)
    if reader.accept("UNSIGNED") or reader.accept("ZEROFILL"):
        raise Unsupported("UNSIGNED", "use a larger type and a CHECK")
    if reader.symbol() is TokenType.L_BRACKET:
        raise Unsupported("array types", "use JSON, or EMBEDDING(n) for vectors")
    return found


def _arguments(reader: Reader, word: str, kind: Kind) -> TypeSyntax:
    opens = reader.symbol() is TokenType.L_PAREN
    if word == "ENUM":
        return TypeSyntax(ColumnType(kind), words=_enum_words(reader) if opens else None)
    match kind:
        case Kind.DECIMAL:
            return TypeSyntax(_decimal(_numbers(reader, 2) if opens else []))
        case Kind.EMBEDDING:
            return TypeSyntax(_embedding(_numbers(reader, 1) if opens else []))
        case Kind.DOUBLE:
            reader.accept("PRECISION")
        case Kind.FLOAT if opens and word == "FLOAT":
            (bits,) = _numbers(reader, 1)
            if not 1 <= bits <= 53:
                raise InvalidDefinition("FLOAT(p) needs p from 1 to 53")
            return TypeSyntax(ColumnType(Kind.FLOAT if bits <= 24 else Kind.DOUBLE))
        case Kind.TEXT if word in _CHARACTERS:
            return _characters(reader)
        case Kind.TIMESTAMP | Kind.TIME | Kind.DATETIME:
            return _moment(reader, word, kind, opens)
        case _:
            pass
    if reader.symbol() in (TokenType.L_PAREN, TokenType.LT):
        raise Unsupported(f"arguments of type {word}", f"write {word} alone")
    return TypeSyntax(ColumnType(kind), serial=word in SERIAL_WORDS)


def _moment(reader: Reader, word: str, kind: Kind, opens: bool) -> TypeSyntax:
    if opens:
        (digits,) = _numbers(reader, 1)
        if digits > 6:
            raise Unsupported(f"{word}({digits})", "times have microseconds, at most 6 digits")
    if reader.accept("WITH", "TIME", "ZONE"):
        if kind is Kind.TIME:
            raise Unsupported("TIME WITH TIME ZONE", "use TIME, or DATETIME for moments")
        kind = Kind.DATETIME  # stored in UTC
    else:
        reader.accept("WITHOUT", "TIME", "ZONE")
    return TypeSyntax(ColumnType(kind))


def _characters(reader: Reader) -> TypeSyntax:
    reader.accept("VARYING")
    if reader.symbol() is TokenType.L_PAREN:
        (length,) = _numbers(reader, 1)
        if not 1 <= length <= _TEXT_LENGTH_MAX:
            raise InvalidDefinition(f"a text length goes from 1 to {_TEXT_LENGTH_MAX}")
        return TypeSyntax(ColumnType(Kind.TEXT), length_max=length)
    # CHAR alone is taken as TEXT; the standard's CHAR(1) has surprised everybody.
    return TypeSyntax(ColumnType(Kind.TEXT))


def _numbers(reader: Reader, count_max: int) -> list[int]:
    reader.expect_symbol(TokenType.L_PAREN, "(")
    found = [reader.integer("a number")]
    while len(found) < count_max and reader.accept_symbol(TokenType.COMMA):
        found.append(reader.integer("a number"))
    reader.expect_symbol(TokenType.R_PAREN, ")")
    if min(found) < 0:
        raise InvalidDefinition("arguments of a type are not negative")
    return found


def _enum_words(reader: Reader) -> tuple[str, ...]:
    reader.expect_symbol(TokenType.L_PAREN, "(")
    found = [reader.string("a value of ENUM")]
    while reader.accept_symbol(TokenType.COMMA):
        found.append(reader.string("a value of ENUM"))
    reader.expect_symbol(TokenType.R_PAREN, ")")
    if len(found) > _ENUM_MAX or len(set(found)) != len(found):
        raise InvalidDefinition(f"ENUM takes up to {_ENUM_MAX} different values")
    return tuple(found)


def _decimal(arguments: list[int]) -> ColumnType:
    if not arguments:
        return ColumnType(Kind.DECIMAL, precision=38, scale=10)
    precision = arguments[0]
    scale = arguments[1] if len(arguments) > 1 else 0
    if not 1 <= precision <= DECIMAL_PRECISION_MAX or scale > precision:
        raise InvalidDefinition(f"DECIMAL(p,s) needs 1 ≤ p ≤ {DECIMAL_PRECISION_MAX} and 0 ≤ s ≤ p")
    return ColumnType(Kind.DECIMAL, precision=precision, scale=scale)


def _embedding(arguments: list[int]) -> ColumnType:
    if len(arguments) != 1 or not 1 <= arguments[0] <= EMBEDDING_SIZE_MAX:
        raise InvalidDefinition(f"EMBEDDING(n) needs a size from 1 to {EMBEDDING_SIZE_MAX}")
    return ColumnType(Kind.EMBEDDING, size=arguments[0])
