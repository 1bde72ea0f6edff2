"""Errors of the tree as bytes: a caller on another node meets the very error that was raised.

Bytes are a msgpack list: class name, values of its fields in their order, number of the failed
statement, definition of a table. They live as long as a link does and have no version of their own;
the handshake has one.

Keeps:
- The classes are a closed set, found by walking the tree at import; a name only looks one up.
  Nothing here can run code.
- Fields are plain data: None, truth values, numbers, texts, bytes, and tuples of these. Any other
  value of a field travels as its text; what can be called does not travel.
- A class this side does not know is an error of the server that names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from kalamdb import cluster_errors, errors, transaction_errors
from kalamdb.errors import KalamError
from kalamdb.model.table import TableDef
from kalamdb.store.catalog_codec import TableState, decode_table, encode_table

FAULT_BYTES_MAX = 4 << 20
BUG_MESSAGE = "the server failed on this request; the log of the node says why"

_HALF_SURROGATES = 1  # a text that UTF-8 does not hold
_LARGE_NUMBER = 2  # beyond 64 bits, as decimal digits
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
# Named here, so that they are imported before the tree is walked.
_TREE = (errors, transaction_errors, cluster_errors)


def _classes(root: type[KalamError]) -> Iterator[type[KalamError]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


CLASSES: dict[str, type[KalamError]] = {
    cls.__name__: cls
    for cls in _classes(KalamError)
    if cls.__module__ in {module.__name__ for module in _TREE}
}


class _Fault(msgspec.Struct, array_like=True, frozen=True):
    name: str
    values: list[Any]
    statement: int | None = None
    table: bytes | None = None


def encode_fault(error: KalamError) -> bytes:
    """At most FAULT_BYTES_MAX bytes; what is larger becomes an error of the server that says so."""
    name = type(error).__name__
    table: bytes | None = None
    values: list[Any] = []
    for value in error.values.values():
        if isinstance(value, TableDef):
            table = encode_table(value, TableState.ACTIVE)
            value = None
        values.append(_plain(value))
    statement = error.__dict__.get("statement")
    raw = msgspec.msgpack.encode(_Fault(name, values, statement, table))
    if len(raw) > FAULT_BYTES_MAX:
        return encode_fault(KalamError(f"{name} with {len(raw)} bytes is too large to be told"))
    return raw


def decode_fault(raw: bytes) -> KalamError:
    """The error. Raises: nothing; bytes that are none give an error of the server."""
    try:
        fault = _decode(raw)
        cls = CLASSES.get(fault.name)
        if cls is None:
            return KalamError(f"another node answered with an unknown error {fault.name[:100]!r}")
        if len(fault.values) != len(cls.fields):
            return KalamError(f"another node has other fields of {fault.name}")
        values = dict(zip(cls.fields, map(_tuples, fault.values), strict=True))
        if fault.table is not None and "definition" in values:
            values["definition"] = decode_table(fault.table)[0]
    except (msgspec.MsgspecError, RecursionError, *_UNFIT) as broken:
        return KalamError(f"another node answered with an error that cannot be read: {broken}")
    error = cls(**values)
    if fault.statement is not None:
        error.__dict__["statement"] = fault.statement
    try:
        str(error)
    except _UNFIT:
        return KalamError(f"another node answered with {fault.name} and fields of other types")
    return error


def bug() -> KalamError:
    """What the caller is told of an exception outside the tree."""
    return KalamError(BUG_MESSAGE)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | float() | bytes():
            return value
        case int():
            if _INT_MIN <= value <= _INT_MAX:
                return int(value)
            return msgspec.msgpack.Ext(_LARGE_NUMBER, str(int(value)).encode())
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                data = value.encode("utf-8", "surrogatepass")
                return msgspec.msgpack.Ext(_HALF_SURROGATES, data)
            return str(value)
        case tuple() | list():
            return [_plain(item) for item in cast("tuple[Any, ...] | list[Any]", value)]
        case _:
            return None if callable(value) else str(value)


def _ext(code: int, data: memoryview) -> Any:
    match code:
        case 1:
            return bytes(data).decode("utf-8", "surrogatepass")
        case 2 if len(data) <= 1000:
            return int(bytes(data))
        case _:
            raise ValueError(f"extension {code}")


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in cast(list[Any], value))
    return value


_decode = msgspec.msgpack.Decoder(_Fault, ext_hook=_ext).decode
