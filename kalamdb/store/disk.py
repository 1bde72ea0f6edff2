"""Free space of the data disk: below the limit writes are refused, before anything breaks.

A ballast file holds a little space in reserve. It is given up when the disk runs low, so that the
log and the row store can finish what they began, and made again when there is room.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from kalamdb.errors import DiskFull

BALLAST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class DiskStatistics:
    free_bytes: int
    min_free_bytes: int
    low: bool


class DiskWatch:
    """`look` is called every second, `refusal` before each write."""

    def __init__(self, path: Path, min_free_bytes: int) -> None:
        self._path = path
        self._ballast = path / "ballast"
        self._min_free_bytes = min_free_bytes
        self._free_bytes = 0
        self.low = False
        self.look()

    def look(self) -> bool:
        """Measure again. True when the answer to `low` changed."""
        was = self.low
        try:
            found = os.statvfs(self._path)
            self._free_bytes = found.f_bavail * found.f_frsize
        except OSError:
            self._free_bytes = 0
        self.low = self._free_bytes < self._min_free_bytes
        if self.low:
            self._ballast.unlink(missing_ok=True)
        elif self._free_bytes > self._min_free_bytes + BALLAST_BYTES:
            self._hold()
        return self.low != was

    def _hold(self) -> None:
        if self._ballast.exists():
            return
        # A file system without allocation, or one that fills up now, does without the reserve.
        with contextlib.suppress(OSError), self._ballast.open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, BALLAST_BYTES)

    def refusal(self) -> DiskFull | None:
        """Why writes are refused now; None while they are accepted."""
        return DiskFull(self._free_bytes, self._min_free_bytes) if self.low else None

    def statistics(self) -> DiskStatistics:
        return DiskStatistics(self._free_bytes, self._min_free_bytes, self.low)
