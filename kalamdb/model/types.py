"""The one type table: column type ↔ stored value ↔ JSON ↔ Arrow ↔ PostgreSQL OID ↔ key bytes.

A *stored value* is what rows hold in memory and on disk:

    Boolean bool · SmallInt, Int, BigInt int · Float, Double float (finite) · Decimal str with
    exactly `scale` decimals · Text, Json, File str · Bytes bytes · Timestamp, DateTime int µs since
    the Unix epoch (UTC) · Date int days · Time int µs since midnight · Uuid bytes(16) · Embedding
    bytes (little-endian float32)

NULL is None everywhere. `model/values.py` turns what a client may send into stored values and
stored values into their JSON form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

Value = Any  # a stored value, or None


class Kind(Enum):
    """Logical type; the value is its label in result schemas."""

    BOOLEAN = "Boolean"
    SMALLINT = "SmallInt"
    INT = "Int"
    BIGINT = "BigInt"
    FLOAT = "Float"
    DOUBLE = "Double"
    DECIMAL = "Decimal"
    TEXT = "Text"
    BYTES = "Bytes"
    JSON = "Json"
    TIMESTAMP = "Timestamp"
    DATETIME = "DateTime"
    DATE = "Date"
    TIME = "Time"
    UUID = "Uuid"
    EMBEDDING = "Embedding"
    FILE = "File"


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A logical type with its parameters: `precision` and `scale` of DECIMAL, `size` of
    EMBEDDING.
    """

    kind: Kind
    precision: int = 0
    scale: int = 0
    size: int = 0

    @property
    def sql(self) -> str:
        """The type as SQL text, for messages and DESCRIBE."""
        match self.kind:
            case Kind.DECIMAL:
                return f"DECIMAL({self.precision},{self.scale})"
            case Kind.EMBEDDING:
                return f"EMBEDDING({self.size})"
            case kind:
                return kind.name

    @property
    def label(self) -> str | dict[str, Any]:
        """`data_type` in result schemas: "BigInt", {"Embedding":384}, {"Decimal":{…}}."""
        match self.kind:
            case Kind.DECIMAL:
                return {"Decimal": {"precision": self.precision, "scale": self.scale}}
            case Kind.EMBEDDING:
                return {"Embedding": self.size}
            case kind:
                return kind.value

    @property
    def arrow(self) -> str:
        """Name of the Arrow type a scan uses; `query/arrow.py` turns it into one."""
        if self.kind is Kind.DECIMAL:
            return f"decimal128({self.precision},{self.scale})"
        if self.kind is Kind.EMBEDDING:
            return f"fixed_size_list<float32>[{self.size}]"
        return _ARROW[self.kind]

    @property
    def pg_oid(self) -> int:
        return _PG_OID[self.kind]

    @property
    def is_key(self) -> bool:
        """May be part of a PRIMARY KEY, UNIQUE or index: has an order-preserving key encoding."""
        return self.kind not in _NO_KEY

    @property
    def is_integer(self) -> bool:
        return self.kind in (Kind.SMALLINT, Kind.INT, Kind.BIGINT)

    @property
    def is_numeric(self) -> bool:
        return self.is_integer or self.kind in (Kind.FLOAT, Kind.DOUBLE, Kind.DECIMAL)


BOOLEAN = ColumnType(Kind.BOOLEAN)
INT = ColumnType(Kind.INT)
BIGINT = ColumnType(Kind.BIGINT)
DOUBLE = ColumnType(Kind.DOUBLE)
TEXT = ColumnType(Kind.TEXT)
TIMESTAMP = ColumnType(Kind.TIMESTAMP)

INTEGER_RANGE = {
    Kind.SMALLINT: (-(1 << 15), (1 << 15) - 1),
    Kind.INT: (-(1 << 31), (1 << 31) - 1),
    Kind.BIGINT: (-(1 << 63), (1 << 63) - 1),
}
EMBEDDING_SIZE_MAX = 8192
DECIMAL_PRECISION_MAX = 38

_NO_KEY = {Kind.JSON, Kind.EMBEDDING, Kind.FILE}

_ARROW = {
    Kind.BOOLEAN: "bool",
    Kind.SMALLINT: "int16",
    Kind.INT: "int32",
    Kind.BIGINT: "int64",
    Kind.FLOAT: "float32",
    Kind.DOUBLE: "float64",
    Kind.TEXT: "utf8",
    Kind.BYTES: "binary",
    Kind.JSON: "utf8",
    Kind.TIMESTAMP: "timestamp[us]",
    Kind.DATETIME: "timestamp[us, UTC]",
    Kind.DATE: "date32",
    Kind.TIME: "time64[us]",
    Kind.UUID: "fixed_size_binary[16]",
    Kind.FILE: "utf8",
}

_PG_OID = {
    Kind.BOOLEAN: 16,
    Kind.SMALLINT: 21,
    Kind.INT: 23,
    Kind.BIGINT: 20,
    Kind.FLOAT: 700,
    Kind.DOUBLE: 701,
    Kind.DECIMAL: 1700,
    Kind.TEXT: 25,
    Kind.BYTES: 17,
    Kind.JSON: 114,
    Kind.TIMESTAMP: 1114,
    Kind.DATETIME: 1184,
    Kind.DATE: 1082,
    Kind.TIME: 1083,
    Kind.UUID: 2950,
    Kind.EMBEDDING: 1021,
    Kind.FILE: 25,
}
