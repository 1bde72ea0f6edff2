"""The disk under a member's shared log: what was not synced may be lost, in part or whole.

Keeps: `create` is atomic and durable; a crash while bytes are appended leaves any first part of
them; after a power loss each file keeps what was synced and a random part of the rest, of which
single sectors may read as zeros (torn writes).
"""

from __future__ import annotations

from random import Random

SECTOR_BYTES = 512


class ProcessDied(Exception):
    """The process was killed in the middle of an operation of the disk."""


class SimDisk:
    """Implements `cluster.raft.disk.Disk` in RAM; outlives the process."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._files: dict[str, bytearray] = {}
        self._synced: dict[str, int] = {}
        self._operations_left: int | None = None  # then the process dies
        self.lost_bytes = 0

    # Disk.

    def list(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return bytes(self._files[name])

    def create(self, name: str, data: bytes) -> None:
        self._operate()
        assert name not in self._files
        self._files[name] = bytearray(data)
        self._synced[name] = len(data)

    def append(self, name: str, data: bytes) -> None:
        if self._operations_left == 0:
            self._files[name] += data[: self._dice.randint(0, len(data))]
        self._operate()
        self._files[name] += data

    def sync(self, name: str) -> None:
        self._operate()
        self._synced[name] = len(self._files[name])

    def delete(self, name: str) -> None:
        self._operate()
        del self._files[name], self._synced[name]

    # Faults.

    def die_after(self, operations: int | None) -> None:
        """Raise ProcessDied instead of the operation after that many; None: go on working."""
        self._operations_left = operations

    def _operate(self) -> None:
        if self._operations_left is None:
            return
        if self._operations_left == 0:
            raise ProcessDied
        self._operations_left -= 1

    def lose_power(self) -> None:
        for name, data in self._files.items():
            start = self._synced[name]
            end = self._dice.randint(start, len(data))
            self.lost_bytes += len(data) - end
            del data[end:]
            for at in range(start - start % SECTOR_BYTES, end, SECTOR_BYTES):
                if self._dice.random() < 0.3:
                    low, high = max(at, start), min(at + SECTOR_BYTES, end)
                    data[low:high] = bytes(high - low)
