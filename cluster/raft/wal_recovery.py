"""Reads the shared log back: segments in order, frames checked, records replayed into one state
per group.

Keeps: what it returns is what the log had said up to its last whole frame; a group's entries are
contiguous from its start. Anything else raises Corruption (wal_format.py says what counts as a
torn tail).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.raft.disk import Disk
from cluster.raft.wal_format import (
    HEADER_BYTES,
    LAST_INDEX,
    Frame,
    RecordType,
    SegmentHeader,
    frame_proving,
    frames_of,
    parse_header,
    records_of,
    segment_name,
    segment_number,
    segment_seed,
)
from kalamdb.errors import Corruption

Entry = tuple[bytes, int, int]  # command, index, term: the shape pysyncobj uses


@dataclass(slots=True)
class GroupState:
    """What the log knows of one group. A group never heard of starts after (1, 0), as pysyncobj
    does.
    """

    term: int = 0
    vote: int | None = None
    base_index: int = 1
    base_term: int = 0
    last_index: int = 1
    entries: list[Entry] = field(default_factory=list[Entry])
    members: bytes | None = None  # members.Base; None in logs that never said

    def head(self) -> GroupState:
        """The same without entries, to be changed apart."""
        start = (self.base_index, self.base_term, self.last_index)
        return GroupState(self.term, self.vote, *start, members=self.members)


@dataclass(slots=True)
class Segment:
    number: int
    size_bytes: int
    live: dict[int, int] = field(
        default_factory=dict[int, int]
    )  # group -> highest index that counts


@dataclass(frozen=True, slots=True)
class Recovered:
    groups: dict[int, GroupState]
    segments: list[Segment]
    seq: int  # of the last whole frame
    end_bytes: int  # where the last segment's frames end


def recover(disk: Disk, node_uuid: bytes) -> Recovered:
    """Read all segments. Raises: Corruption, OSError."""
    found = {number: name for name in disk.list() if (number := segment_number(name)) is not None}
    numbers = sorted(found)
    replay = _Replay()
    if not numbers:
        return Recovered({}, [], 0, 0)
    if (missing := set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) != set():
        name = segment_name(min(missing))
        raise Corruption(path=name, offset=0, detail="segment is missing between others")
    data = disk.read(found[numbers[0]])
    header = parse_header(found[numbers[0]], data, node_uuid)
    seq, end = header.previous_seq, 0
    for number in numbers:
        name = found[number]
        last = number == numbers[-1]
        following, following_data = None, b""
        if not last:
            following_data = disk.read(found[number + 1])
            following = parse_header(found[number + 1], following_data, node_uuid)
        seed = segment_seed(node_uuid, number)
        end = HEADER_BYTES
        replay.segments.append(Segment(number, end))
        for frame in frames_of(data, seed, seq + 1):
            if following is not None and frame.end > following.previous_end_bytes:
                break
            replay.frame(name, data, frame)
            seq, end = frame.seq, frame.end
        replay.segments[-1].size_bytes = end
        if following is not None:
            _check_closed(name, following, end, seq)
        else:
            _check_last(name, data, seed, end, seq)
        data = following_data
    replay.finish(found[numbers[-1]])
    return Recovered(replay.groups, replay.segments, seq, end)


def _check_closed(name: str, following: SegmentHeader, end: int, seq: int) -> None:
    if (end, seq) != (following.previous_end_bytes, following.previous_seq):
        said = f"frame {following.previous_seq} and offset {following.previous_end_bytes}"
        detail = f"frame {seq + 1} is damaged; the next segment says frames go to {said}"
        raise Corruption(path=name, offset=end, detail=detail)


def _check_last(name: str, data: bytes, seed: int, end: int, seq: int) -> None:
    if end == HEADER_BYTES:  # the head frame came with the file
        raise Corruption(path=name, offset=end, detail="the segment's first frame is damaged")
    proof = frame_proving(data, end, seed, seq + 1)
    if proof is not None:
        detail = (
            f"frame {seq + 1} is damaged; frame {proof.seq} at offset {proof.offset} was written "
            "when it was already on disk"
        )
        raise Corruption(path=name, offset=end, detail=detail)


class _Replay:
    """Folds records into `groups` and keeps each segment's `live`."""

    def __init__(self) -> None:
        self.groups: dict[int, GroupState] = {}
        self.segments: list[Segment] = []

    def frame(self, name: str, data: bytes, frame: Frame) -> None:
        live = self.segments[-1].live
        for kind, gid, index, term, payload in records_of(data, frame):
            if kind == RecordType.ADD:
                state = self.groups.get(gid)
                if state is None:
                    state = self.groups[gid] = GroupState()
                if index != state.last_index + 1:
                    detail = f"entry {index} of group {gid} follows {state.last_index}"
                    raise Corruption(path=name, offset=frame.offset, detail=detail)
                state.entries.append((payload, index, term))
                state.last_index = index
                live[gid] = index
            else:
                self._fact(name, frame, (kind, gid, index, term, payload))

    def _fact(self, name: str, frame: Frame, record: tuple[int, int, int, int, bytes]) -> None:
        kind, gid, index, term, payload = record
        state = self.groups.setdefault(gid, GroupState())
        match kind:
            case RecordType.TERM:
                state.term, state.vote = term, index - 1 if index else None
            case RecordType.TRUNC:
                while state.entries and state.entries[-1][1] >= index:
                    state.entries.pop()
                state.last_index = min(state.last_index, index - 1)
                for segment in self.segments:
                    if gid in segment.live:
                        segment.live[gid] = min(segment.live[gid], index - 1)
            case RecordType.COMPACT:
                state.base_index, state.base_term = index, term
                _drop_to(state, index)
            case RecordType.RESET:
                state.base_index, state.base_term = index, term
                state.entries.clear()
                state.last_index = index
                for segment in self.segments:
                    segment.live.pop(gid, None)
            case RecordType.HEAD:
                said = (index, term, *LAST_INDEX.unpack(payload))
                known = (state.base_index, state.base_term, state.last_index)
                if len(self.segments) > 1 and known != said:
                    detail = f"head says group {gid} is {said}, replay {known}"
                    raise Corruption(path=name, offset=frame.offset, detail=detail)
                state.base_index, state.base_term, state.last_index = said
            case RecordType.MEMBERS:
                state.members = payload
            case RecordType.FORGET:
                del self.groups[gid]
                for segment in self.segments:
                    segment.live.pop(gid, None)
            case _:
                detail = f"record type {kind} is not known"
                raise Corruption(path=name, offset=frame.offset, detail=detail)

    def finish(self, name: str) -> None:
        """The oldest segment may lack entries its head counts; after all facts none is missing."""
        for gid, state in self.groups.items():
            first = state.entries[0][1] if state.entries else state.last_index + 1
            if first != state.base_index + 1:
                detail = f"group {gid} starts after {state.base_index}, its first entry is {first}"
                raise Corruption(path=name, offset=0, detail=detail)


def _drop_to(state: GroupState, index: int) -> None:
    if state.entries:
        del state.entries[: max(0, index - state.entries[0][1] + 1)]
