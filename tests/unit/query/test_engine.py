"""The worker's own parts, without a worker: what is kept, how results and errors are told."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest

from kalamdb.errors import QueryFailed
from kalamdb.query import engine, results
from kalamdb.query.arrow import BatchBuilder
from kalamdb.query.tables import KeptTable, KeptTables
from kalamdb.query.wire import SourceColumn, WireSource, WireType

ID = SourceColumn(1, "id", WireType("BigInt"))
MONTHS = pa.array([(14, 1, -1000)], pa.month_day_nano_interval())
BODY = SourceColumn(2, "body", WireType("Text"))


def kept(state: bytes, *columns: SourceColumn, size_bytes: int = 10) -> KeptTable:
    return KeptTable(state, columns, BatchBuilder(columns).schema, (), size_bytes)


def source(place: bytes, state: bytes, *columns: SourceColumn) -> WireSource:
    return WireSource(place, state, columns)


def test_a_kept_table_is_found_in_its_state_only() -> None:
    tables = KeptTables(100)
    tables.put(source(b"a", b"1", ID), kept(b"1", ID))
    assert tables.get(source(b"a", b"1", ID)) is not None
    assert tables.get(source(b"a", b"2", ID)) is None
    assert tables.get(source(b"b", b"1", ID)) is None
    assert tables.get(source(b"a", b"1", ID, BODY)) is None
    assert tables.wanted(source(b"a", b"1", BODY)) == (BODY, ID)
    assert tables.wanted(source(b"a", b"2", BODY)) == (BODY,)
    renamed = SourceColumn(1, "number", WireType("BigInt"))
    assert tables.get(source(b"a", b"1", renamed)) is None


def test_the_least_recently_used_goes_first() -> None:
    tables = KeptTables(25)
    for place in (b"a", b"b"):
        tables.put(source(place, b"1", ID), kept(b"1", ID))
    assert tables.get(source(b"a", b"1", ID)) is not None
    tables.put(source(b"c", b"1", ID), kept(b"1", ID))
    assert tables.size_bytes == 20
    assert tables.get(source(b"b", b"1", ID)) is None
    assert tables.get(source(b"a", b"1", ID)) is not None
    tables.put(source(b"a", b"2", ID), kept(b"2", ID, size_bytes=26))
    assert tables.get(source(b"a", b"2", ID)) is None
    assert tables.size_bytes == 10
    tables.put(source(b"d", b"", ID), kept(b"", ID))
    assert tables.get(source(b"d", b"", ID)) is None


def encoded(array: pa.Array) -> list[Any]:
    batch = pa.record_batch({"x": array})
    encoder = results.RowEncoder(batch.schema, results.columns(batch.schema), values=False)
    return [row[0] for row in orjson.loads(b"[" + encoder.encode(batch) + b"]")]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([1, None], pa.uint64()), ["1", None]),
        (pa.array([1, None], pa.uint32()), ["1", None]),
        (pa.array([1, None], pa.duration("s")), ["00:00:01", None]),
        (pa.array([-1_500_000], pa.duration("us")), ["-00:00:01.5"]),
        (MONTHS, ["1 year 2 mons 1 day -00:00:00.000001"]),
        (pa.array([{"a": 1, "b": [b"\1"]}]), ['{"a":1,"b":[[1]]}']),
        (pa.array([[("k", 1)]], pa.map_(pa.utf8(), pa.int64())), ['{"k":1}']),
        (pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")), [1_700_000_000_123_456]),
        (pa.array([86_400_000], pa.date64()), [1]),
        (pa.array([], pa.float64()), []),
    ],
    ids=lambda case: str(case.type) if isinstance(case, pa.Array) else "",
)
def test_types_only_the_engine_has(array: pa.Array, expected: list[Any]) -> None:
    assert encoded(array) == expected


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0, float("inf")]),
        pa.array([[1.0, float("nan")]]),
        pa.array([{"a": [float("nan")]}]),
        pa.array([[("k", float("nan"))]], pa.map_(pa.utf8(), pa.float64())),
        pa.array([[1]], pa.list_(pa.timestamp("ns"))),  # nanoseconds have no Python form
    ],
    ids=lambda array: str(array.type),
)
def test_values_without_json(array: pa.Array) -> None:
    with pytest.raises(QueryFailed):
        encoded(array)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("DataFusion error: Arrow error: Divide by zero error", "Divide by zero error"),
        ('SQL error: ParserError("Expected: x at Line: 1")', "Expected: x at Line: 1"),
        ("Schema error: No field named _t1.x.", "No field named rooms.x."),
        ("table 'datafusion.public._t0' not found", "table 'messages' not found"),
        (
            "DataFusion error: Optimizer rule 'simplify_expressions' failed\ncaused by\n"
            "Arrow error: Cast error: Cannot cast string 'a_t0' to value of Int32 type",
            "Cannot cast string 'a_t0' to value of Int32 type",
        ),
        (
            "Internal error: x.\nThis issue was likely caused by a bug in DataFusion's code.",
            "Internal error: x.",
        ),
        ("x" * 1000, "x" * 500 + "…"),
    ],
)
def test_errors_are_told_in_the_users_names(said: str, told: str) -> None:
    assert engine.clean(said, {"_t0": "messages", "_t1": "rooms"}) == told
