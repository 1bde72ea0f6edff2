# pyright: reportMissingTypeStubs=false
"""pysyncobj's Journal of one group, over the shared log.

pysyncobj wants a list whose first item is the entry before the log's start; here it is a stand-in
for what the group's state already holds, `(no-op, base index, base term)`. All entries after it
are in RAM: the owner's `compact_to` bounds them.

Keeps:
- Entries are contiguous in index.
- `durable_index` is the last index known to be on disk; it falls when entries are cut off.
- Nothing at or below the base is ever cut off.
- `members` is the roster in force at every moment, and what the shared log says of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import overload

from pysyncobj.journal import Journal

from cluster.raft.members import (
    NOBODY,
    ROSTER,
    Base,
    MemberLog,
    Roster,
    decode_base,
    decode_roster,
    encode_base,
)
from cluster.raft.wal import Wal
from cluster.raft.wal_recovery import Entry
from kalamdb.errors import Corruption

NO_OP = b"\x01"  # pysyncobj's command type byte of its own entry

KEEP_ENTRIES = (
    10_000  # left behind the compacted index, so that a restarted member catches up from the log
)
KEEP_BYTES = 8 << 20


class GroupJournal(Journal):
    """See the module. One event loop, no locks.

    `founding` is what a group begins with of which the shared log says nothing about members.
    Raises: Corruption when what it says can't be read.
    """

    def __init__(
        self,
        wal: Wal,
        gid: int,
        applied_index: int,
        *,
        node: int = 0,
        founding: Callable[[], Base] | None = None,
    ) -> None:
        state = wal.recovered(gid)
        self._wal = wal
        self._gid = gid
        self._entries: list[Entry] = [(NO_OP, state.base_index, state.base_term), *state.entries]
        self._size_bytes = sum(len(entry[0]) for entry in state.entries)
        self._term, self._vote = state.term, state.vote
        self._commit_index = max(1, applied_index)
        self.durable_index = self.last_index
        self._taken_index = self.last_index
        self.on_members: Callable[[], None] = _nothing  # another roster is in force
        self.members = self._recovered_members(node, state.members, founding)

    def _recovered_members(
        self, node: int, said: bytes | None, founding: Callable[[], Base] | None
    ) -> MemberLog:
        if said is not None:
            base = decode_base(said)
            if base is None:
                detail = "its members are of a format this program does not know"
                raise Corruption(path=f"group {self._gid}", offset=self.base_index, detail=detail)
        else:
            base = Base(NOBODY, known=False) if founding is None else founding()
            if founding is not None:
                self._wal.members(self._gid, encode_base(base))
        members = MemberLog(node, base)
        for command, index, _ in self._entries[1:]:
            if command[:1] == ROSTER:
                members.added(index, self._roster(command, index))
        return members

    def _roster(self, command: bytes, index: int) -> Roster:
        roster = decode_roster(command)
        if roster is None:
            detail = "the entry's members are of a format this program does not know"
            raise Corruption(path=f"group {self._gid}", offset=index, detail=detail)
        return roster

    def tell_members(self, index: int, roster: Roster) -> None:
        """The roster as of the base, which an image left open."""
        self.members.tell(index, roster)
        self._members_changed()

    def _members_changed(self) -> None:
        self._wal.members(self._gid, encode_base(self.members.base))
        self.on_members()

    @property
    def base_index(self) -> int:
        return self._entries[0][1]

    @property
    def base_term(self) -> int:
        return self._entries[0][2]

    @property
    def last_index(self) -> int:
        return self._entries[-1][1]

    @property
    def last_term(self) -> int:
        return self._entries[-1][2]

    @property
    def size_bytes(self) -> int:
        """Bytes of the commands in RAM."""
        return self._size_bytes

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None outside the log (its base counts as inside)."""
        at = index - self.base_index
        return self._entries[at][2] if 0 <= at < len(self._entries) else None

    def find_conflict(self, index: int, term: int) -> tuple[int, int]:
        """(index, term) of the last entry at or below `index` whose term is at most `term`.

        A leader and a follower whose logs part find their common prefix with it in one round for
        each term, not one for each entry. Below the base it answers the base.
        """
        high = min(max(index - self.base_index, 0), len(self._entries) - 1)
        at = bisect_right(self._entries, term, 0, high + 1, key=_term_of) - 1
        found = self._entries[max(at, 0)]
        return found[1], found[2]

    def entries_from(self, index: int, size_max: int, last: int | None = None) -> list[Entry]:
        """Entries from `index` to `last`; cut before `size_max` bytes, but at least one if
        there is one.
        """
        base = self.base_index
        at = index - base
        assert at >= 1
        end, size, entries = at, 0, self._entries
        stop = len(entries) if last is None else min(len(entries), last - base + 1)
        while end < stop:
            size += len(entries[end][0])
            if size > size_max and end > at:
                break
            end += 1
        return entries[at:end]

    # Durability: the hub's cycle.

    def mark_taken(self) -> None:
        """All records so far are in the batch that is written next."""
        self._taken_index = self.last_index

    def mark_synced(self) -> None:
        """The batch of the last `mark_taken` is on disk."""
        self.durable_index = self._taken_index

    # The log's start.

    def compact_to(self, index: int) -> None:
        """Entries up to `index` are no longer needed here; some are kept for followers that lag."""
        index = min(index, self.last_index)
        over = index - self.base_index > KEEP_ENTRIES or self._size_bytes > KEEP_BYTES
        if index <= self.base_index or not over:
            return
        at, kept_bytes, kept = index - self.base_index, 0, 0
        while at > 0 and kept < KEEP_ENTRIES and kept_bytes < KEEP_BYTES:
            kept_bytes += len(self._entries[at][0])
            kept, at = kept + 1, at - 1
        self.start_after(self._entries[at][1])

    def start_after(self, index: int) -> None:
        """Drop entries up to `index`, which the log holds; the rest stays."""
        at = index - self.base_index
        assert 0 <= at < len(self._entries)
        if at == 0:
            return
        term = self._entries[at][2]
        self._wal.compact(self._gid, index, term)
        self._size_bytes -= sum(len(entry[0]) for entry in self._entries[1 : at + 1])
        self._entries[at] = (NO_OP, index, term)
        del self._entries[:at]
        if self.members.start_after(index):
            self._members_changed()

    def reset(self, index: int, term: int) -> None:
        """The log starts anew after (index, term), whose state is here and on disk."""
        self._wal.reset(self._gid, index, term)
        self._entries = [(NO_OP, index, term)]
        self._size_bytes = 0
        self.durable_index = self._taken_index = index
        self.members.reset(index)
        self._members_changed()

    def log_again(self) -> None:
        """Write the whole log anew, so that it no longer holds old segments."""
        self._wal.reset(self._gid, self.base_index, self.base_term)
        for command, index, term in self._entries[1:]:
            self._wal.add(self._gid, index, term, command)

    # pysyncobj's interface.

    def add(self, command: bytes, idx: int, term: int) -> None:
        assert idx == self.last_index + 1, (idx, self.last_index)
        self._entries.append((command, idx, term))
        self._size_bytes += len(command)
        self._wal.add(self._gid, idx, term, command)
        if command[:1] == ROSTER:
            self.members.added(idx, self._roster(command, idx))
            self.on_members()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        if entryFrom >= len(self._entries):
            return
        assert entryFrom >= 1
        index = self._entries[entryFrom][1]
        self._wal.trunc(self._gid, index)
        self._size_bytes -= sum(len(entry[0]) for entry in self._entries[entryFrom:])
        del self._entries[entryFrom:]
        self.durable_index = min(self.durable_index, index - 1)
        self._taken_index = min(self._taken_index, index - 1)
        if self.members.cut_from(index):
            self.on_members()

    def deleteEntriesTo(self, entryTo: int) -> None:
        raise AssertionError("the owner compacts, through compact_to")

    def clear(self) -> None:
        raise AssertionError("an image resets the log, through reset")

    @overload
    def __getitem__(self, item: int) -> Entry: ...

    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None:
        pass

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: int | None) -> None:
        self._term, self._vote = term, votedForNodeId
        self._wal.term(self._gid, term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> int | None:
        return self._vote


def _term_of(entry: Entry) -> int:
    return entry[2]


def _nothing() -> None:
    pass
