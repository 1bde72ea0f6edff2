"""A durable shape: how this release writes it and what it must read from its frozen bytes.

The frozen bytes lie in `bytes/<theme>.json` as name → hex. They are added to, never changed:
`python -m tests.compat.record` writes the names that are missing and leaves all others alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES = Path(__file__).with_name("bytes")


@dataclass(frozen=True, slots=True)
class Case:
    """`read` turns `made` into `value`. `version_at`: where the format version stands, if any."""

    name: str
    made: bytes
    value: Any
    read: Callable[[bytes], Any]
    version_at: int | None = None


def same(raw: bytes) -> bytes:
    """For keys that are only compared, never taken apart."""
    return raw


def nothing(raw: bytes) -> None:
    """For keys nobody reads back."""


def frozen(theme: str) -> dict[str, bytes]:
    """Name → bytes, as they were frozen."""
    found = json.loads((BYTES / f"{theme}.json").read_text())
    return {name: bytes.fromhex(text) for name, text in found.items()}


def freeze(theme: str, cases: list[Case]) -> Iterator[str]:
    """Add the cases that are not frozen yet; gives their names."""
    path = BYTES / f"{theme}.json"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    for case in cases:
        if case.name not in kept:
            kept[case.name] = case.made.hex()
            yield f"{theme}: {case.name}"
    path.write_text(json.dumps(kept, indent=1) + "\n")
