"""A client of live queries that are evaluated anew: it applies what it is told, as the docs say.

It is the reference: a snapshot and the units after it must give what a fresh SELECT gives.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson


def frozen(row: dict[str, Any]) -> str:
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS).decode()


class ResultClient:
    """The rows of one subscription. Frames of a unit wait until its last one."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.cursor = "0"
        self.ordered = False
        self.key: list[str] | None = None
        self.ready = False
        self.error: dict[str, Any] | None = None
        self.kinds: Counter[str] = Counter()
        self.resets = 0
        self._loading: list[dict[str, Any]] | None = None
        self._unit: list[dict[str, Any]] = []

    def take(self, frame: dict[str, Any]) -> bool:
        """Apply a frame; True: the next page is wanted."""
        match frame["type"]:
            case "subscription_ack":
                self.ordered = frame["evaluated"]["ordered"]
                self.key = frame["evaluated"]["key"]
                self.resets += bool(frame.get("reset"))
                self._unit = []
                self._loading = [] if frame.get("reset") or "seq" not in frame else None
                self.error = None
            case "initial_data_batch":
                if self._loading is not None:
                    self._loading += frame["rows"]
                if frame["batch_control"]["has_more"]:
                    assert "seq" not in frame
                    return True
                if self._loading is not None:
                    self.rows, self._loading = self._loading, None
                self.ready = True
            case "change":
                self._unit.append(frame)
                assert frame["commit"] == ("seq" in frame)
                if frame["commit"]:
                    unit, self._unit = self._unit, []
                    self._apply(unit)
            case "error":
                self.error = frame
            case "position":
                pass
            case kind:
                raise AssertionError(f"{kind} is not of a live query")
        if "seq" in frame and frame["type"] != "error":
            self.cursor = frame["seq"]
        return False

    def _apply(self, unit: list[dict[str, Any]]) -> None:
        for frame in unit:
            rows = frame.get("rows") or frame["old_values"]
            assert rows, "a frame without rows"
            self.kinds[frame["change_type"]] += len(rows)
        if self.ordered:
            self._apply_in_order(unit)
        else:
            self._apply_as_bag(unit)

    def _apply_in_order(self, unit: list[dict[str, Any]]) -> None:
        rows = list(self.rows)
        out: list[int] = []
        put: list[tuple[int, dict[str, Any]]] = []
        for frame in unit:
            match frame["change_type"]:
                case "delete":
                    for at, old in zip(frame["positions"], frame["old_values"], strict=True):
                        assert rows[at] == old
                    out += frame["positions"]
                case "insert":
                    put += zip(frame["positions"], frame["rows"], strict=True)
                case _:
                    for at, old in zip(frame["old_positions"], frame["old_values"], strict=True):
                        assert old.items() <= rows[at].items()
                    out += frame["old_positions"]
                    put += zip(frame["positions"], frame["rows"], strict=True)
        for at in sorted(out, reverse=True):
            del rows[at]
        for at, row in sorted(put, key=lambda pair: pair[0]):
            rows.insert(at, row)
        self.rows = rows

    def _apply_as_bag(self, unit: list[dict[str, Any]]) -> None:
        bag = Counter(map(frozen, self.rows))
        for frame in unit:
            assert "positions" not in frame
            match frame["change_type"]:
                case "delete":
                    bag.subtract(map(frozen, frame["old_values"]))
                case "insert":
                    bag.update(map(frozen, frame["rows"]))
                case _:
                    assert self.key is not None
                    for row, old in zip(frame["rows"], frame["old_values"], strict=True):
                        same = [one for one in bag.elements() if self._is(one, old)]
                        assert len(same) == 1, "a key tells one row"
                        bag.subtract(same)
                        bag[frozen(row)] += 1
        assert all(count >= 0 for count in bag.values()), "a row was deleted that is not there"
        self.rows = [orjson.loads(row) for row in bag.elements()]

    def _is(self, row: str, old: dict[str, Any]) -> bool:
        found = orjson.loads(row)
        assert self.key is not None
        return all(found[name] == old[name] for name in self.key)

    def check(self, fresh: list[dict[str, Any]]) -> None:
        if self.ordered:
            assert self.rows == fresh
        else:
            assert Counter(map(frozen, self.rows)) == Counter(map(frozen, fresh))
