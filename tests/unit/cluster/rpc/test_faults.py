"""Errors between nodes: every class of the tree arrives as it left."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.rpc.faults import CLASSES, FAULT_BYTES_MAX, bug, decode_fault, encode_fault
from kalamdb import errors
from kalamdb.edge import faults
from kalamdb.errors import KalamError, SchemaChanged, SigningKeyPending, TypeMismatch
from kalamdb.model.ids import TableId
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import ColumnType, Kind

NUMBERS = ("_s", "_bytes", "limit", "max", "index", "version", "offset", "statement", "slot")


def tree(root: type[KalamError] = KalamError) -> Iterator[type[KalamError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def value_of(field: str) -> Any:
    if field in ("columns",):
        return ("a", "b")
    if field == "limit_s" or field == "waited_s":
        return 2.5
    if field.endswith(NUMBERS):
        return 7
    return None if field in ("ready", "definition") else f"a {field} ü"


@pytest.mark.parametrize("cls", list(dict.fromkeys(tree())))
def test_every_class_arrives_as_it_left(cls: type[KalamError]) -> None:
    assert CLASSES[cls.__name__] is cls, "name its module in cluster/rpc/faults.py"
    error = cls(**{field: value_of(field) for field in cls.fields})
    error.__dict__["statement"] = 3
    heard = decode_fault(encode_fault(error))
    assert type(heard) is cls
    assert heard.values == error.values
    assert str(heard) == str(error)
    said = [faults.envelope(each, 1.0, None, "select 1") for each in (error, heard)]
    assert said[0] == said[1]


def test_the_closed_set_is_what_the_edge_knows() -> None:
    assert set(CLASSES.values()) == set(faults.FAULTS)


def test_the_definition_of_a_table_goes_along() -> None:
    columns = (Column(1, "id", ColumnType(Kind.BIGINT), False),)
    table = TableDef(TableId(9), "chat", "msgs", TableKind.USER, columns, (1,))
    heard = decode_fault(encode_fault(SchemaChanged("chat.msgs", 4, table)))
    assert isinstance(heard, SchemaChanged)
    assert heard.values == {"table": "chat.msgs", "version": 4, "definition": table}


def test_what_is_no_plain_data_goes_as_text_and_what_can_be_called_not_at_all() -> None:
    odd = ("\ud800", 2**80, -(2**70), Decimal("1.50"), b"\x00", True, None, 1.5)
    heard = decode_fault(encode_fault(KalamError(odd)))
    assert heard.detail == ("\ud800", 2**80, -(2**70), "1.50", b"\x00", True, None, 1.5)
    pending = decode_fault(encode_fault(SigningKeyPending("issuer", print)))
    assert pending.values == {"issuer": "issuer", "ready": None}


def raw(*parts: object) -> bytes:
    return msgspec.msgpack.encode(parts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        raw("Exception", ["x"]),
        raw("os.system", ["x"]),
        raw("KalamError", []),
        raw("TypeMismatch", ["a", "b", "c", "d"]),
        raw("AccountLocked", ["a minute"]),
        raw("InvalidCredentials", [5]),
        raw("SchemaChanged", ["t", 1, None], None, b"no table"),
        raw("SchemaChanged", ["t", 1, None], None, raw(1, 1, [])),
        b"\x92\xa1x" + b"\x91" * 5000,
    ],
)
def test_what_is_no_fault_is_an_error_of_the_server(data: bytes) -> None:
    assert type(decode_fault(data)) is KalamError
    assert faults.fault_of(decode_fault(data)).status == 500


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    assert isinstance(decode_fault(data), KalamError)


def test_a_fault_is_bounded() -> None:
    told = encode_fault(TypeMismatch("a", "b", "x" * FAULT_BYTES_MAX))
    assert len(told) < 200
    assert "TypeMismatch" in str(decode_fault(told))
    assert type(decode_fault(told)) is KalamError


def test_a_bug_says_nothing_but_that_there_is_one() -> None:
    assert faults.fault_of(bug()).code == "INTERNAL_ERROR"
    assert errors.KalamError is type(bug())
