"""A stretch of keys in one partition of a table: what an index read or a range comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class KeySource(Enum):
    """Whose keys a KeyRange is of."""

    PRIMARY = "primary key"
    INDEX = "index"
    UNIQUE = "unique"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from `start` up to, not including, `stop` (empty: to the end), partition left out.

    `number` is the Index's or Unique's id, 0 for the primary key. In an INDEX entry the primary key
    follows `open_columns` values after the first `head_bytes` bytes, which are the same in the
    whole range.
    """

    source: KeySource
    number: int
    start: bytes
    stop: bytes
    head_bytes: int = 0
    open_columns: int = 0
