# pyright: basic
"""Arithmetic of integers that never wraps around, for an engine whose operators do.

The text for the engine comes with marks (`sql/marks.py`) where integers may overflow. For each one:

1. where both types are known, and integers, the operator becomes a call of a checked function;
2. where they are not, it becomes for a moment a function that takes nothing, and the planner's
   refusal says what it was given; then it is a checked function, or the operator as it was written;
3. SUM of BIGINT is computed in two halves, or as DECIMAL with DISTINCT, FILTER and OVER, and put
   together at the end; a SUM of narrower integers has room in 64 bits for 2^31 rows. SUM of a
   DECIMAL that has no room for ten more digits is computed in 256 bits.

Keeps: nothing is executed with a mark that was not decided; a decision never changes a result that
is in range, nor its type (but for differences of unsigned numbers, which are BIGINT).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from itertools import chain
from typing import Any

import datafusion
import pyarrow as pa
import pyarrow.compute

from kalamdb.errors import QueryFailed, ValueOutOfRange
from kalamdb.model.types import BIGINT, INT, ColumnType, Kind
from kalamdb.sql.marks import MARK, NARROW_FIRST

UNKNOWN_MAX = 1_000
"""Operators of one text whose types its planner is asked for, one by one."""
ANSWERS_MAX = 4
"""A type that the planner has changed its mind about more often is none."""
DECIDED_MAX = 256
DECIDED_LENGTH_MAX = 8_192
TWICE_LENGTH_MAX = 256
"""An argument of SUM that is longer goes into the text once."""

_TYPES = {
    "h": (pa.int16(), ColumnType(Kind.SMALLINT).sql),
    "i": (pa.int32(), INT.sql),
    "b": (pa.int64(), BIGINT.sql),
}
_WIDTHS = {"Int8": "h", "UInt8": "h", "Int16": "h", "UInt16": "i", "Int32": "i", "UInt32": "b"}
_WIDTHS |= {"Int64": "b", "Null": "b"}
_NAMES = {"+": "kalam_add", "-": "kalam_subtract", "*": "kalam_multiply", "n": "kalam_negate"}
_SIGN = {"+": "+", "-": "-", "*": "*", "n": "-"}
_DECIMAL = re.compile(r"Decimal128\((\d+), (-?\d+)\)")
_SUM_DIGITS_MAX = 28  # the engine adds ten digits to a SUM, and has 38
_LOW, _HIGH = -(1 << 63), (1 << 63) - 1
_HALF = 1 << 32
# Nothing is of this type, and nothing becomes it.
_NOTHING = pa.struct([pa.field("kalam", pa.binary(3))])
_REFUSED = re.compile(
    r"call to 'kalam_[a-z_]+?(?:_(\d+))?' function: coercion from (.*?) to the signature"
)
_NOT_ASKED = "nobody asked what types an operator has"
_TWICE_NOT = re.compile(r"random|kalam_[sul]|uuid|select|\0", re.IGNORECASE)


pc: Any = pyarrow.compute  # its functions are made when it is imported


# ---- texts with marks ----------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Operation:
    operator: str
    hint: str
    parts: list[list[str | _Operation]] = field(default_factory=list)
    answers: int = 0
    decided: str = "?"
    """As a hint; `u` of UInt64, digits of a DECIMAL with so many decimals."""


_Part = str | _Operation
_TOKENS = re.compile(r"\0([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class _Marked:
    top: list[_Part]
    operations: list[_Operation]

    def render(self) -> str:
        return "".join(self._parts(self.top, {id(o): n for n, o in enumerate(self.operations)}))

    def _parts(self, parts: Sequence[_Part], numbers: dict[int, int]) -> list[str]:
        return [part if isinstance(part, str) else self._operation(part, numbers) for part in parts]

    def _operation(self, operation: _Operation, numbers: dict[int, int]) -> str:
        parts = ["".join(self._parts(part, numbers)) for part in operation.parts]
        number = numbers[id(operation)]
        if operation.operator in "sd":
            return _total(operation, parts, number)
        own = f"_{number}" if operation.answers else ""
        match operation.decided:
            case "o":
                sign = _SIGN[operation.operator]
                return f"{parts[0]} {sign} {parts[1]}" if parts[1:] else f"{sign} {parts[0]}"
            case "?":
                return f"kalam_ask_{number}({', '.join(parts)})"
            case "u":
                parts = [f"CAST(kalam_same_{number}({part}) AS BIGINT)" for part in parts]
                return f"{_NAMES[operation.operator]}_b({', '.join(parts)})"
            case width:
                return f"{_NAMES[operation.operator]}_{width}{own}({', '.join(parts)})"


def _total(operation: _Operation, parts: Sequence[str], number: int) -> str:
    argument, inside, behind = parts
    distinct = "DISTINCT " if operation.operator == "d" else ""
    decided = operation.decided
    if decided == "?":
        return f"sum({distinct}kalam_ask_{number}({argument}) {inside}) {behind}"
    if decided == "o":
        return f"sum({distinct}{argument} {inside}) {behind}"
    plain = not distinct and not inside.strip() and not behind.strip()
    twice = len(argument) <= TWICE_LENGTH_MAX and not _TWICE_NOT.search(argument)
    if operation.answers:
        argument = f"kalam_same_{number}({argument})"
    if decided not in ("b", "u"):
        wide = f"arrow_cast({argument}, 'Decimal256(48, {decided})')"
        exact = f"sum({distinct}{wide} {inside}) {behind}"
        return f"arrow_cast({exact}, 'Decimal128(38, {decided})')"
    if plain and twice and decided == "b":
        half = f"CAST({argument} AS BIGINT)"
        return f"kalam_joined(sum({half} >> 32), sum({half} & {_HALF - 1}))"
    exact = f"sum({distinct}CAST({argument} AS DECIMAL(20, 0)) {inside}) {behind}"
    if decided == "u":
        return f"arrow_cast({exact}, 'UInt64')"
    return f"kalam_total(CAST({exact} AS DECIMAL(38, 0)))"


def _read(text: str) -> _Marked:
    top: list[_Part] = []
    into: list[_Part] = top
    open_ones: list[_Operation] = []
    operations: list[_Operation] = []
    at = 0
    for found in _TOKENS.finditer(text):
        into.append(text[at : found.start()])
        at = found.end()
        match found[1]:
            case "":
                into.append(MARK)  # a NUL of the user's
            case ",":
                open_ones[-1].parts.append(into := [])
            case ".":
                open_ones.pop()
                into = open_ones[-1].parts[-1] if open_ones else top
            case mark:
                operation = _Operation(mark[0], mark[1], [[]])
                operations.append(operation)
                into.append(operation)
                open_ones.append(operation)
                into = operation.parts[0]
    into.append(text[at:])
    return _Marked(top, operations)


# ---- decisions -----------------------------------------------------------------------------------

Start = Callable[[str], Any]
"""Plans a text and computes its first rows. Raises whatever the engine raises."""

Register = Callable[[datafusion.ScalarUDF], None]
"""Makes a function known to the session of a text."""


@dataclass(frozen=True, slots=True)
class _Decided:
    """A text without marks, and the functions it calls beside those that every text may."""

    text: str
    functions: Sequence[datafusion.ScalarUDF]


class Arithmetic:
    """Decides marks, and remembers what the planner said for texts that come again."""

    def __init__(self) -> None:
        self._functions = _functions()
        self._decided: dict[Any, _Decided] = {}

    def start(self, register: Register, text: str, start: Start, schemas: Any) -> Any:
        """What `start` gives for a text without marks. `schemas`: what its types depend on, with a
        hash.

        Raises what `start` raises, and QueryFailed.
        """
        if MARK not in text:
            return start(text)
        _register(register, self._functions)
        key = (text, schemas)
        known = self._decided.get(key)
        if known is not None:
            _register(register, known.functions)
            return start(known.text)
        marked = _read(text)
        for operation in marked.operations:
            operation.decided = operation.hint
        self._ask(register, marked)
        while True:
            decided = marked.render()
            try:
                started = start(decided)
                break
            except BaseException as error:
                if not self._learned(register, marked, str(error)):
                    raise
        if len(text) <= DECIDED_LENGTH_MAX:
            if len(self._decided) >= DECIDED_MAX:
                self._decided.pop(next(iter(self._decided)))
            own = [_exact(o, n) for n, o in enumerate(marked.operations) if o.answers]
            self._decided[key] = _Decided(decided, tuple(chain.from_iterable(own)))
        return started

    def _ask(self, register: Register, marked: _Marked) -> None:
        unknown = [n for n, o in enumerate(marked.operations) if o.decided == "?"]
        if len(unknown) > UNKNOWN_MAX:
            raise QueryFailed(
                f"more than {UNKNOWN_MAX} operators beside values whose type is not plain to see:"
                " cast them"
            )
        for number in unknown:
            takes = 2 if marked.operations[number].operator in "+-*" else 1
            name = f"kalam_ask_{number}"
            function = datafusion.udf(_never, [_NOTHING] * takes, pa.int64(), "immutable", name)
            register(function)

    def _learned(self, register: Register, marked: _Marked, message: str) -> bool:
        """Did this refusal tell more than was known?"""
        found = _REFUSED.search(message)
        if found is None:
            return _NOT_ASKED in message and _settle_nulls(marked)
        if found[1] is None:  # a hint was wrong: a name meant something else than it seemed to
            hinted = [o for o in marked.operations if not o.answers and o.decided != "?"]
            for operation in hinted:
                operation.decided = "?"
            self._ask(register, marked)
            return bool(hinted)
        number = int(found[1])
        operation = marked.operations[number]
        operation.decided = _decision(operation.operator, found[2])
        operation.answers += 1  # a CASE has the type of its first branch until types are matched
        _register(register, _exact(operation, number))
        return operation.answers <= ANSWERS_MAX


def _register(register: Register, functions: Sequence[datafusion.ScalarUDF]) -> None:
    for function in functions:
        register(function)


def _settle_nulls(marked: _Marked) -> bool:
    """What nobody asked about had NULL on all sides: that is a BIGINT as well."""
    unknown = [operation for operation in marked.operations if operation.decided == "?"]
    for operation in unknown:
        operation.decided = "b"
    return bool(unknown)


def _decision(operator: str, given: str) -> str:
    if operator in "sd":
        wide = _DECIMAL.fullmatch(given)
        if wide is not None and int(wide[1]) > _SUM_DIGITS_MAX:
            return wide[2]
        return {"Int64": "b", "UInt64": "u"}.get(given, "o")
    types = given.split(", ")
    if all(kind == "UInt64" for kind in types):
        return "u" if len(types) > 1 else "o"
    if any(kind not in _WIDTHS for kind in types):
        return "o"  # no integers, or an UInt64 beside an integer, which make a DECIMAL
    return max((_WIDTHS[kind] for kind in types), key=NARROW_FIRST.index)


def _exact(operation: _Operation, number: int) -> list[datafusion.ScalarUDF]:
    """The functions that an operation whose types were asked for has for itself: they refuse, under
    a name that tells which one it is, what later turns out to be of another type.
    """
    decided = operation.decided
    if decided in _TYPES and operation.operator not in "sd":
        return [_function(operation.operator, decided, f"_{number}")]
    if decided in ("o", "?"):
        return []
    arrow = {"b": pa.int64(), "u": pa.uint64()}.get(decided) or pa.decimal128(38, int(decided))
    name = f"kalam_same_{number}"
    return [datafusion.udf(lambda rows: rows, [arrow], arrow, "immutable", name)]


def _never(*_: Any) -> Any:
    raise AssertionError(_NOT_ASKED)


# ---- functions -----------------------------------------------------------------------------------


class IntegerOverflow(Exception):
    """On its way through the engine, which makes a text of it."""


_OVERFLOW = re.compile(r"kalam-overflow\|([A-Z]+)\|([^|]*)\|")
_NATIVE = re.compile(r"Int(?:16|32|64)Array overflow on (abs\(-?\d+\))")
_NATIVE_OPERATOR = re.compile(
    r"Arithmetic overflow: Overflow happened on: (-?\d+ \S+ -?\d+|- -?\d+)"
)


_EXACTLY = Context(prec=80)
_CAST = re.compile(r"Cannot cast to Decimal128\(\d+, (-?\d+)\)\. Overflowing on (-?\d+)")
_AVERAGE = "Arithmetic Overflow in AvgAccumulator"


def overflow(text: str) -> ValueOutOfRange | None:
    """The overflow that an error of the engine tells of."""
    if (found := _OVERFLOW.search(text)) is not None:
        return ValueOutOfRange(None, found[1], found[2])
    if (found := _NATIVE.search(text) or _NATIVE_OPERATOR.search(text)) is not None:
        return ValueOutOfRange(None, "a number", found[1])
    if (found := _CAST.search(text)) is not None:
        value = Decimal(found[2]).scaleb(-int(found[1]), _EXACTLY)
        return ValueOutOfRange(None, "DECIMAL", f"{value:f}")
    if _AVERAGE in text:
        return ValueOutOfRange(None, "DECIMAL", "AVG")
    return None


def _functions() -> list[datafusion.ScalarUDF]:
    found: list[datafusion.ScalarUDF] = []
    for width in _TYPES:
        found += [_function(operator, width, "") for operator in _CHECKED]
    wide = pa.decimal128(38, 0)
    total = datafusion.udf(_narrowed, [wide], pa.int64(), "immutable", "kalam_total")
    halves = [pa.int64(), pa.int64()]
    joined = datafusion.udf(_joined, halves, pa.int64(), "immutable", "kalam_joined")
    return [*found, total, joined]


def _function(operator: str, width: str, own: str) -> datafusion.ScalarUDF:
    arrow, shown = _TYPES[width]
    takes = [arrow] * (1 if operator == "n" else 2)
    compute = _checked(operator, _CHECKED[operator], shown)
    return datafusion.udf(compute, takes, arrow, "immutable", f"{_NAMES[operator]}_{width}{own}")


_CHECKED: dict[str, Callable[..., Any]] = {
    "+": pc.add_checked,
    "-": pc.subtract_checked,
    "*": pc.multiply_checked,
    "n": pc.negate_checked,
}
_EXACT: dict[str, Callable[..., int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "n": lambda a: -a,
}


def _checked(operator: str, compute: Callable[..., Any], shown: str) -> Callable[..., Any]:
    def column(*operands: pa.Array) -> pa.Array:
        try:
            return compute(*operands)
        except pa.ArrowInvalid:
            detail = _offending(operator, operands)
            raise IntegerOverflow(f"kalam-overflow|{shown}|{detail}|") from None

    return column


def _offending(operator: str, operands: Sequence[pa.Array]) -> str:
    """The first row that does not fit, as it would be written."""
    bits = operands[0].type.bit_width - 1
    for values in zip(*(column.to_pylist() for column in operands), strict=True):
        if None not in values and not -(1 << bits) <= _EXACT[operator](*values) < 1 << bits:
            return f" {operator} ".join(map(str, values)) if operator != "n" else f"{-values[0]}"
    raise AssertionError("no row overflows")


def _narrowed(totals: pa.Array) -> pa.Array:
    try:
        return totals.cast(pa.int64())
    except pa.ArrowInvalid:
        return pa.array([_in_range(value) for value in totals.to_pylist()], pa.int64())


def _joined(high: pa.Array, low: pa.Array) -> pa.Array:
    """Sums of the upper halves and of the lower ones, put together."""
    carried = pc.add_checked(high, pc.shift_right(low, 32))
    rest = pc.bit_wise_and(low, _HALF - 1)
    try:
        return pc.add_checked(pc.multiply_checked(carried, _HALF), rest)
    except pa.ArrowInvalid:
        pairs = zip(carried.to_pylist(), rest.to_pylist(), strict=True)
        values = [None if a is None or b is None else a * _HALF + b for a, b in pairs]
        return pa.array(map(_in_range, values), pa.int64())


def _in_range(value: Any) -> int | None:
    if value is None or _LOW <= value <= _HIGH:
        return None if value is None else int(value)
    raise IntegerOverflow(f"kalam-overflow|{BIGINT.sql}|SUM is {value}|")
