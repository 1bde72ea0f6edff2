"""The shared log: one durable, segmented file for the entries, terms and votes of all groups of a
node.

Main flow: groups buffer records on the event loop; once a cycle `take` closes them into a Batch,
`write` puts it on disk (any thread, one at a time), and then whatever rests on it may leave the
node.

Keeps:
- A batch is one frame: after a crash all of it is there or none of it.
- Each start begins a new segment whose header says where the previous one ends, so a torn tail is
  cut for good by that header and no file is ever cut or rewritten.
- A new segment's first frame repeats (term, vote, start of log, members as of it) of every group,
  so an old segment may be deleted once all its entries lie before the starts of their groups. Only
  the oldest is ever deleted.
- Damage other than a torn tail refuses to start, naming file and offset (wal_format.py says how it
  is told).
- A write or sync that fails ends the process: what the kernel then holds is unknown, a second
  fsync may lie.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cluster.raft.disk import Disk
from cluster.raft.wal_format import (
    FRAME,
    LAST_INDEX,
    RECORD,
    RecordType,
    SegmentHeader,
    frame_bytes,
    header_bytes,
    segment_name,
    segment_seed,
)
from cluster.raft.wal_recovery import GroupState, Segment, recover

SEGMENT_BYTES = 64 << 20
SEGMENTS_UNPINNED = (
    4  # more than this many: groups that hold the oldest are asked to log their tail again
)
EXIT_DISK = 70


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `write` does, in this order."""

    seq: int
    parts: list[bytes]
    number: int  # the segment the frame goes to
    created: bytes | None  # its first bytes, when the batch begins it
    closed: int | None  # the segment to sync before that
    deleted: tuple[int, ...]  # segments nothing rests on once this is synced
    groups: frozenset[int] = frozenset()  # those with records in it


@dataclass(frozen=True, slots=True)
class WalStatistics:
    segments: int
    size_bytes: int
    frames: int
    syncs: int


def die(error: OSError) -> None:
    """End the process at once: the log could not be written."""
    sys.stderr.write(f"shared log: {error!r}; the node stops\n")
    sys.stderr.flush()
    os._exit(EXIT_DISK)


class Wal:
    """See the module. `durable=False` writes without fdatasync: safe against kill -9, not power
    loss.

    Raises: Corruption from the constructor.
    """

    def __init__(
        self,
        disk: Disk,
        node_uuid: bytes,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        durable: bool = True,
        fatal: Callable[[OSError], None] = die,
    ) -> None:
        assert len(node_uuid) == 16
        self._disk = disk
        self._uuid = node_uuid
        self._segment_bytes = segment_bytes
        self._durable = durable
        self._fatal = fatal
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._live: dict[int, int] = {}  # group -> highest index in the buffer
        self._changed: dict[int, GroupState | None] = {}  # heads the buffer changes, or drops
        self._opened: set[int] = set()
        self._syncs = 0
        found = recover(disk, node_uuid)
        self._recovered = found.groups
        self._heads = {gid: state.head() for gid, state in found.groups.items()}
        self._segments = found.segments
        self._seq = found.seq
        number = 1
        if self._segments:
            number = self._segments[-1].number + 1
            # After kill -9 the tail may be in the page cache only, and from now on it counts.
            disk.sync(segment_name(number - 1))
        disk.create(segment_name(number), self._begin_segment(number, found.end_bytes))
        self._synced_seq = self._written_seq = self._seq
        for old in self._collect():
            disk.delete(segment_name(old))

    def recovered(self, gid: int) -> GroupState:
        """What the log held of the group at start; each group may be asked for once."""
        assert gid not in self._opened
        self._opened.add(gid)
        return self._recovered.pop(gid, None) or GroupState()

    # Records, on the event loop.

    def add(self, gid: int, index: int, term: int, command: bytes) -> None:
        self._parts.append(RECORD.pack(RecordType.ADD, gid, index, term, len(command)))
        self._parts.append(command)
        self._parts_bytes += RECORD.size + len(command)
        self._live[gid] = index

    def term(self, gid: int, term: int, vote: int | None) -> None:
        self._record(RecordType.TERM, gid, 0 if vote is None else vote + 1, term)
        head = self._head_changed(gid)
        head.term, head.vote = term, vote

    def trunc(self, gid: int, index: int) -> None:
        """Entries from `index` on are gone."""
        self._record(RecordType.TRUNC, gid, index, 0)
        self._head_changed(gid).last_index = index - 1
        for live in self._lives():
            if gid in live:
                live[gid] = min(live[gid], index - 1)

    def compact(self, gid: int, index: int, term: int) -> None:
        """Entries up to `index`, of `term`, are gone."""
        self._record(RecordType.COMPACT, gid, index, term)
        head = self._head_changed(gid)
        head.base_index, head.base_term = index, term

    def reset(self, gid: int, index: int, term: int) -> None:
        """The log of the group is empty and starts after (index, term)."""
        self._record(RecordType.RESET, gid, index, term)
        head = self._head_changed(gid)
        head.base_index, head.base_term, head.last_index = index, term, index
        for live in self._lives():
            live.pop(gid, None)

    def members(self, gid: int, data: bytes) -> None:
        """Who belongs to the group as of its log's start (members.encode_base)."""
        self._record(RecordType.MEMBERS, gid, 0, 0, data)
        self._head_changed(gid).members = data

    def forget(self, gid: int) -> None:
        """The group leaves this node. It may be asked for again, and is then empty."""
        self._record(RecordType.FORGET, gid, 0, 0)
        self._changed[gid] = None
        for live in self._lives():
            live.pop(gid, None)
        self._opened.discard(gid)
        self._recovered.pop(gid, None)

    def unopened(self) -> list[int]:
        """Groups the log held at start that nobody has asked for."""
        return sorted(self._recovered)

    def _record(self, kind: RecordType, gid: int, index: int, term: int, data: bytes = b"") -> None:
        self._parts.append(RECORD.pack(kind, gid, index, term, len(data)) + data)
        self._parts_bytes += RECORD.size + len(data)

    def _head_changed(self, gid: int) -> GroupState:
        changed = self._changed.get(gid)
        if changed is None:
            fresh = gid in self._changed or gid not in self._heads
            changed = GroupState() if fresh else self._heads[gid].head()
            self._changed[gid] = changed
        return changed

    def _lives(self) -> list[dict[int, int]]:
        return [segment.live for segment in self._segments] + [self._live]

    # The cycle.

    @property
    def dirty(self) -> bool:
        return bool(self._parts)

    def take(self) -> Batch | None:
        """Close the buffer into a batch. The caller writes it before it takes the next."""
        if not self._parts:
            return None
        assert self._written_seq == self._seq, "the batch before is not written"
        segment, created, closed = self._segments[-1], None, None
        if segment.size_bytes + self._parts_bytes > self._segment_bytes and segment.live:
            closed = segment.number
            created = self._begin_segment(closed + 1, segment.size_bytes)
            segment = self._segments[-1]
        self._seq += 1
        segment.size_bytes += FRAME.size + self._parts_bytes
        segment.live.update(self._live)
        for gid, head in self._changed.items():
            if head is None:
                self._heads.pop(gid, None)
            else:
                self._heads[gid] = head
        for gid, index in self._live.items():
            self._heads.setdefault(gid, GroupState()).last_index = index
        deleted = tuple(self._collect())
        groups = frozenset((*self._live, *self._changed))
        batch = Batch(self._seq, self._parts, segment.number, created, closed, deleted, groups)
        self._parts, self._parts_bytes = [], 0
        self._live, self._changed = {}, {}
        return batch

    def write(self, batch: Batch) -> None:
        """Put the batch on disk. Blocks; on an error of the disk calls `fatal`, then raises it."""
        try:
            self._write(batch)
        except OSError as error:
            self._fatal(error)
            raise

    def _write(self, batch: Batch) -> None:
        name = segment_name(batch.number)
        if batch.created is not None:
            assert batch.closed is not None
            self._disk.sync(segment_name(batch.closed))
            self._disk.create(name, batch.created)
            self._synced_seq = batch.seq - 1
        seed = segment_seed(self._uuid, batch.number)
        self._disk.append(name, frame_bytes(batch.parts, seed, batch.seq, self._synced_seq))
        if self._durable or batch.deleted:
            self._disk.sync(name)
            self._synced_seq = batch.seq
            self._syncs += 1
        self._written_seq = batch.seq
        for number in batch.deleted:
            self._disk.delete(segment_name(number))

    def pinning(self) -> list[int]:
        """Groups whose entries hold the oldest segment, when there are more segments than need
        be.
        """
        if len(self._segments) <= SEGMENTS_UNPINNED:
            return []
        live = self._segments[0].live
        return [gid for gid, index in live.items() if index > self._base(gid)]

    def statistics(self) -> WalStatistics:
        size = sum(segment.size_bytes for segment in self._segments)
        return WalStatistics(len(self._segments), size, self._seq, self._syncs)

    def _base(self, gid: int) -> int:
        head = self._heads.get(gid)
        return head.base_index if head is not None else 1

    def _begin_segment(self, number: int, previous_end_bytes: int) -> bytes:
        """Enter the segment in the table; the bytes it starts with."""
        parts: list[bytes] = []
        for gid, head in sorted(self._heads.items()):
            vote = 0 if head.vote is None else head.vote + 1
            parts.append(RECORD.pack(RecordType.TERM, gid, vote, head.term, 0))
            base, size = (head.base_index, head.base_term), LAST_INDEX.size
            parts.append(RECORD.pack(RecordType.HEAD, gid, *base, size))
            parts.append(LAST_INDEX.pack(head.last_index))
            if head.members is not None:
                size = len(head.members)
                parts.append(RECORD.pack(RecordType.MEMBERS, gid, 0, 0, size) + head.members)
        header = SegmentHeader(self._uuid, number, previous_end_bytes, self._seq)
        self._seq += 1
        seed = segment_seed(self._uuid, number)
        data = header_bytes(header) + frame_bytes(parts, seed, self._seq, self._seq - 1)
        self._segments.append(Segment(number, len(data)))
        return data

    def _collect(self) -> list[int]:
        """Take the oldest segments that nothing rests on out of the table."""
        deleted: list[int] = []
        while len(self._segments) > 1:
            live = self._segments[0].live
            if any(index > self._base(gid) for gid, index in live.items()):
                break
            deleted.append(self._segments.pop(0).number)
        return deleted
