"""Compiled expressions answer what the engine answers, over generated rows and conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kalamdb.errors import KalamError
from kalamdb.model.types import Kind
from kalamdb.sql import dialect
from kalamdb.sql.bound import ScanSelect
from kalamdb.sql.expression import compile_expression
from kalamdb.sql.scope import NotCompilable, TableScope
from tests.unit.sql.tables import arrow_value, bind, env, run, table

KINDS = table("kinds")
Rows = list[tuple[dict[int, Any], int]]
_NAMES = {column.name: column for column in KINDS.columns}
_TEXTS = ["", "a", "A", "ab", "aB%", "a_b", "é", "ß", "10", " a ", "a\\b", "a\nb", "😀", "zz"]
_UUIDS = [bytes(16), bytes(15) + b"\1", b"\xff" * 16]


def _values(kind: Kind) -> st.SearchStrategy[Any]:
    match kind:
        case Kind.SMALLINT:
            return st.sampled_from([-32768, -3, -1, 0, 1, 2, 5, 32767])
        case Kind.INT:
            return st.sampled_from([-(2**31), -7, -1, 0, 1, 2, 3, 5, 2**31 - 1])
        case Kind.BIGINT:
            return st.sampled_from([-(2**63), -(2**53) - 1, -1, 0, 1, 2, 5, 2**53 + 1, 2**63 - 1])
        case Kind.DOUBLE:
            return st.sampled_from(
                [-1e300, -2.5, -1.0, 0.0, 0.1, 1.0, 2.0, 2.5, 9.007199254740993e15]
            )
        case Kind.FLOAT:
            return st.sampled_from([-2.5, 0.0, 1.0, 1.5, 0.10000000149011612])
        case Kind.DECIMAL:
            return st.sampled_from(
                ["-99999999.99", "-1.00", "0.00", "0.10", "1.00", "1.50", "2.00"]
            )
        case Kind.TEXT | Kind.JSON:
            return st.sampled_from(_TEXTS)
        case Kind.BOOLEAN:
            return st.booleans()
        case Kind.TIMESTAMP | Kind.DATETIME:
            return st.sampled_from([0, 1, -1, 1704067200000000, 1704110400000001])
        case Kind.DATE:
            return st.sampled_from([-1, 0, 19723, 19724])
        case Kind.TIME:
            return st.sampled_from([0, 3723000000, 86399999999])
        case Kind.UUID:
            return st.sampled_from(_UUIDS)
        case Kind.BYTES:
            return st.sampled_from([b"", b"a", b"\x00\xff", b"ab"])
        case _:
            return st.none()


@st.composite
def _rows(draw: st.DrawFn) -> Rows:
    rows: Rows = []
    for number in range(draw(st.integers(3, 8))):
        row: dict[int, Any] = {1: number}
        for column in KINDS.columns[1:]:
            value = draw(st.one_of(st.none(), _values(column.type.kind), _values(column.type.kind)))
            if value is not None:
                row[column.id] = value
        rows.append((row, 1024 * (number + 1)))
    return rows


_INTS = st.sampled_from(["id", "small", "i", "n", "0", "1", "2", "5", "-1", "_seq"])
_TEXT_LITERALS = st.sampled_from(_TEXTS).map(lambda text: "'" + text.replace("'", "''") + "'")
_PATTERNS = st.sampled_from(
    [
        "a%",
        "%b",
        "%",
        "_",
        "a_b",
        "a\\%",
        "a\\_b",
        "",
        "%a%",
        "A%",
        "aB\\%",
        "a%b",
        "__",
        "é",
        "a\\\\b",
    ]
).map(lambda text: f"'{text}'")
_TEXT_COLUMNS = st.sampled_from(["s", "t"])


def _arithmetic(depth: int) -> st.SearchStrategy[str]:
    """Integers that stay far from overflow, where the engine wraps around and we refuse."""
    leaf = st.sampled_from(["id", "small", "1", "2", "5", "-3"])
    if depth == 0:
        return leaf
    inner = _arithmetic(depth - 1)
    binary = st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda p: f"({p[0]} {p[1]} {p[2]})"
    )
    divided = st.tuples(inner, st.sampled_from("/%"), st.sampled_from(["2", "-3", "5"])).map(
        lambda p: f"({p[0]} {p[1]} {p[2]})"
    )
    case = st.tuples(inner, inner).map(lambda p: f"CASE WHEN b THEN {p[0]} ELSE {p[1]} END")
    other = st.tuples(inner, inner).map(lambda p: f"COALESCE({p[0]}, {p[1]})")
    sign = inner.map(lambda p: f"abs({p})")
    return st.one_of(leaf, binary, divided, case, other, sign, inner.map(lambda p: f"(- {p})"))


def _text(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return _TEXT_COLUMNS
    inner = _text(depth - 1)
    return st.one_of(
        _TEXT_COLUMNS,
        inner.map(lambda p: f"lower({p})"),
        inner.map(lambda p: f"upper({p})"),
        inner.map(lambda p: f"trim({p})"),
        inner.map(lambda p: f"ltrim({p})"),
        inner.map(lambda p: f"rtrim({p}, 'ab')"),
        st.tuples(inner, st.integers(-1, 3)).map(lambda p: f"substring({p[0]}, {p[1]})"),
        st.tuples(inner, st.integers(-1, 3), st.integers(0, 3)).map(
            lambda p: f"substring({p[0]}, {p[1]}, {p[2]})"
        ),
        st.tuples(inner, _TEXT_LITERALS).map(lambda p: f"({p[0]} || {p[1]})"),
        st.tuples(inner, _INTS.filter(lambda x: x != "_seq")).map(lambda p: f"({p[0]} || i)"),
        st.tuples(inner, _TEXT_LITERALS).map(lambda p: f"nullif({p[0]}, {p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"coalesce({p[0]}, {p[1]}, 'x')"),
    )


_COMPARE = st.sampled_from(
    ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
)
_LITERALS = {
    "f": ["0", "1", "2.5", "-1.0", "1e300", "'2.5'", "9007199254740993"],
    "r": ["0.1", "1.5", "2", "'0.1'"],
    "d": ["1", "1.5", "1.499", "'0.1'", "0.100", "-1", "12345678901234567890"],
    "n": [
        "5",
        "1.5",
        "2.0",
        "'5'",
        "9007199254740993",
        "9007199254740992.0",
        "99999999999999999999",
    ],
    "i": ["5", "'5'", "2.5", "3000000000"],
    "small": ["5", "100000", "-1.0"],
    "b": ["true", "false", "'true'", "'f'"],
    "ts": [
        "'2024-01-01'",
        "'2024-01-01 12:00:00.000001'",
        "'1970-01-01T00:00:00Z'",
        "DATE '2024-01-01'",
    ],
    "tz": ["'2024-01-01'", "'2024-01-01T01:00:00+01:00'", "TIMESTAMP '1970-01-01 00:00:00'"],
    "day": ["'2024-01-01'", "'1970-01-01'", "DATE '2024-01-02'"],
    "tm": ["'01:02:03'", "'00:00'"],
    "u": ["'00000000-0000-0000-0000-000000000001'", "'00000000000000000000000000000000'"],
    "raw": ["'ab'", "'\\x00ff'", "''"],
    "j": ["'a'", "''"],
}
_COLUMN_LITERAL = st.sampled_from(
    [(column, value) for column, values in _LITERALS.items() for value in values]
)
_PAIR_TEXT = """
i n, small i, i f, n f, d i, r f, ts tz, day ts, day tz, s t, s j, b b, u u, n _seq, r i
"""
_PAIRS = st.sampled_from([tuple(pair.split()) for pair in _PAIR_TEXT.split(",")])


_LOGIC = """
b
NOT b
b IS TRUE
b IS NOT TRUE
b IS FALSE
b IS NOT FALSE
b IS UNKNOWN
true
1 = 1
NULL
s = NULL
"""
_ESCAPES = r"""
s LIKE 'a!%' ESCAPE '!'
s LIKE 'a!_b' ESCAPE '!'
s LIKE 'a\b' ESCAPE '!'
s NOT LIKE 'a%!%' ESCAPE '!'
"""
_OTHERS = """
f / 2 > 1
(f + 1e301) / 0 > 1
1.0 / f <> 1
f % 2.5 = 0
d + 1.5 > 2.6
d * 2 = 3
d - d = 0
-d < 1
f + i > 2
COALESCE(d, 1) = 1
COALESCE(i, 2.5) = 2.5
CAST(i AS TEXT) = '5'
CAST(i AS DOUBLE) = 5
CAST(ts AS DATE) = '2024-01-01'
CAST(tz AS TIMESTAMP) = ts
CAST(b AS TEXT) = 'true'
CASE i WHEN 5 THEN 'a' WHEN 1 THEN 'b' END = 'a'
CASE WHEN i > 1 THEN 1 ELSE 2.5 END > 1.5
nullif(i, 5) IS NULL
CURRENT_USER = 'alice'
CURRENT_ROLE() = s
NOW() > ts
_seq > 2048 AND _deleted = false
"""


def _one_of(lines: str) -> st.SearchStrategy[str]:
    return st.sampled_from(lines.strip().splitlines())


def _condition(depth: int) -> st.SearchStrategy[str]:
    literal = st.tuples(_COLUMN_LITERAL, _COMPARE).map(lambda p: f"{p[0][0]} {p[1]} {p[0][1]}")
    swapped = st.tuples(_COLUMN_LITERAL, _COMPARE).map(lambda p: f"{p[0][1]} {p[1]} {p[0][0]}")
    pair = st.tuples(_PAIRS, _COMPARE).map(lambda p: f"{p[0][0]} {p[1]} {p[0][1]}")
    member = st.lists(_COLUMN_LITERAL, min_size=1, max_size=1).map(
        lambda p: f"{p[0][0]} IN ({', '.join([*_LITERALS[p[0][0]], 'NULL'][-3:])})"
    )
    leaf = st.one_of(
        literal,
        swapped,
        pair,
        member,
        _COLUMN_LITERAL.map(lambda p: f"{p[0]} NOT IN ({p[1]})"),
        _COLUMN_LITERAL.map(lambda p: f"{p[0]} BETWEEN {p[1]} AND {p[1]}"),
        _COLUMN_LITERAL.map(lambda p: f"{p[0]} NOT BETWEEN {_LITERALS[p[0]][0]} AND {p[1]}"),
        st.sampled_from(list(_NAMES)).map(lambda name: f"{name} IS NULL"),
        st.sampled_from(list(_NAMES)).map(lambda name: f"{name} IS NOT NULL"),
        _one_of(_LOGIC),
        st.tuples(
            _text(1), st.sampled_from(["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"]), _PATTERNS
        ).map(lambda p: f"{p[0]} {p[1]} {p[2]}"),
        _one_of(_ESCAPES),
        st.tuples(_text(2), _COMPARE, _TEXT_LITERALS).map(lambda p: f"{p[0]} {p[1]} {p[2]}"),
        st.tuples(_arithmetic(2), _COMPARE, _arithmetic(1)).map(lambda p: f"{p[0]} {p[1]} {p[2]}"),
        st.tuples(_text(1), st.sampled_from(["=", ">"]), st.integers(0, 3)).map(
            lambda p: f"length({p[0]}) {p[1]} {p[2]}"
        ),
        st.tuples(_text(1), _TEXT_LITERALS).map(lambda p: f"starts_with({p[0]}, {p[1]})"),
        _one_of(_OTHERS),
    )
    if depth == 0:
        return leaf
    inner = _condition(depth - 1)
    return st.one_of(
        leaf,
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
            lambda p: f"({p[0]}) {p[1]} ({p[2]})"
        ),
        inner.map(lambda p: f"NOT ({p})"),
    )


def _compiled(sql: str, rows: Rows) -> list[Any] | None:
    """What the closures answer; None when the expression is not compiled or is refused."""
    tree = dialect.expression(dialect.tokenize(sql), sql)
    try:
        compiled = compile_expression(tree, TableScope(KINDS, None))
        function = compiled.at(env())
        values = [function(row, seq) for row, seq in rows]
    except (NotCompilable, KalamError):
        return None
    if compiled.type is None:
        return values
    return [arrow_value(value, compiled.type.kind) for value in values]


def _agree(expressions: Sequence[str], rows: Rows, *, compiled_min: int | None = None) -> None:
    """Ask the engine for all expressions in one query, and compare column by column."""
    ours = {sql: _compiled(sql, rows) for sql in dict.fromkeys(expressions)}
    known = {sql: values for sql, values in ours.items() if values is not None}
    assert len(known) >= (len(ours) if compiled_min is None else compiled_min)
    if not known:
        return
    names = ", ".join(f"({sql}) AS v{number}" for number, sql in enumerate(known))
    bound = bind(f"SELECT {names} FROM kinds")
    assert isinstance(bound, ScanSelect)
    answer = run(bound, env(), {"kinds": rows})
    for column, (sql, values) in zip(answer.columns, known.items(), strict=True):
        assert column.to_pylist() == values, sql


_SOME = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)


@_SOME
@given(st.lists(_condition(2), min_size=10, max_size=20), _rows())
def test_conditions_agree_with_the_engine(expressions: list[str], rows: Rows) -> None:
    _agree(expressions, rows, compiled_min=0)


@_SOME
@given(st.lists(st.one_of(_arithmetic(3), _text(3)), min_size=10, max_size=20), _rows())
def test_values_agree_with_the_engine(expressions: list[str], rows: Rows) -> None:
    _agree(expressions, rows, compiled_min=0)


def _every_row() -> Rows:
    """Rows in which every interesting value of every column occurs."""
    samples: dict[int, list[Any]] = {}
    for column in KINDS.columns[1:]:
        found = _values(column.type.kind)
        samples[column.id] = [None, *getattr(found, "elements", [True, False])]
    rows: Rows = []
    for number in range(max(len(values) for values in samples.values()) + 4):
        row: dict[int, Any] = {1: number}
        for column_id, values in samples.items():
            value = values[(number + column_id) % len(values)]
            if value is not None:
                row[column_id] = value
        rows.append((row, 1024 * (number + 1)))
    return rows


EVERY_ROW = _every_row()


@pytest.mark.parametrize("column", list(_LITERALS))
def test_every_comparison_of_every_type_agrees(column: str) -> None:
    expressions = [
        f"{column} {op} {value}" for value in _LITERALS[column] for op in ("=", "<>", "<", ">=")
    ]
    expressions += [f"{column} IN ({value}, NULL)" for value in _LITERALS[column]]
    expressions += [f"{column} NOT IN ({value}, NULL)" for value in _LITERALS[column]]
    expressions += [f"{column} IS NULL", f"{column} IS NOT NULL", f"{column} = {column}"]
    _agree(expressions, EVERY_ROW)


def test_logic_has_three_values() -> None:
    truths = ("true", "false", "CAST(NULL AS BOOLEAN)", "b")
    expressions = [f"{a} {op} {b}" for a in truths for b in truths for op in ("AND", "OR", "=")]
    expressions += [f"{a} AND {b} AND {c}" for a in truths for b in truths for c in truths]
    expressions += [f"{a} OR {b} OR {c}" for a in truths for b in truths for c in truths]
    expressions += [f"NOT {a}" for a in truths]
    for test in ("TRUE", "FALSE", "UNKNOWN", "NULL"):
        expressions += [f"({a}) IS {test}" for a in truths]
        expressions += [f"({a}) IS NOT {test}" for a in truths]
    _agree(expressions, EVERY_ROW)


def test_every_pattern_over_every_text() -> None:
    patterns = ["a%", "%b", "%", "_", "a_b", "a\\%", "a\\_b", "", "%a%", "A%", "aB\\%", "a%b", "__",
                "é", "_%", "%_", "a\\\\b", "a\nb", "%%", "_é", "ß", "ss", "%\\"]  # fmt: skip
    expressions = [
        f"{column} {op} '{pattern}'"
        for column in ("s", "t")
        for op in ("LIKE", "ILIKE", "NOT LIKE")
        for pattern in patterns
    ]
    _agree(expressions + _ESCAPES.strip().splitlines(), EVERY_ROW)


def test_every_operation_over_whole_numbers() -> None:
    numbers = ("-7", "-2", "-1", "0", "1", "3", "7", "small", "id")
    expressions = [
        f"{a} {op} {b}"
        for a in numbers
        for b in numbers
        for op in "+-*/%"
        if op in "+-*" or b not in ("0", "small", "id")
    ]
    rows = [({1: number, 2: number - 3}, number) for number in range(8)]
    _agree(expressions, rows)


def test_a_cast_cuts_decimals_off() -> None:
    rows = [({1: number, 5: value}, number) for number, value in enumerate((-2.7, -0.5, 0.5, 9.99))]
    _agree(["CAST(f AS BIGINT)", "CAST(f AS INT)", "f::smallint + 1"], rows)


def test_every_function_and_cast() -> None:
    positions = range(-2, 5)
    expressions = [f"substring(s, {first})" for first in positions]
    expressions += [
        f"substring(s, {first}, {length})" for first in positions for length in range(4)
    ]
    for column in ("s", "t"):
        expressions += [
            f"{call.replace('x', column)}"
            for call in ("lower(x)", "upper(x)", "length(x)", "char_length(x)", "trim(x)",
                         "ltrim(x)",
                         "rtrim(x)", "trim(BOTH 'a' FROM x)", "trim(LEADING 'a' FROM x)",
                         "trim(TRAILING 'b' FROM x)", "x || 'é'", "starts_with(x, 'a')", "x || i",
                         "coalesce(x, '-')", "nullif(x, 'a')", "CAST(x AS TEXT)")
        ]  # fmt: skip
    _agree(expressions + _OTHERS.strip().splitlines(), EVERY_ROW)
