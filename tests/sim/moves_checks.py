"""What must hold of chains, rows and keys while slots move: an own reading of both groups' logs.

Keeps: keys are told apart here by an own table of families, not by the walk under test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kalamdb.model import codec, keys
from kalamdb.model.change import ChangeBatch
from kalamdb.model.command import Command
from kalamdb.model.ids import SEQ_GROUP_MASK, GroupId, Partition, Seq, Slot, slot_of
from kalamdb.model.keys import Family
from kalamdb.model.table import TableDef
from kalamdb.ports import LogEntry
from kalamdb.store.memory import MemoryStore
from kalamdb.store.slot_codec import ArrivalState, SlotState, decode_slot
from tests.sim.reference import Violation

PARTITION_AT = {
    Family.ROW: 5,
    Family.SEQ: 5,
    Family.HISTORY: 5,
    Family.LAST: 5,
    Family.DEAD: 5,
    Family.INDEX: 7,
    Family.UNIQUE: 7,
    Family.CHANGE: 9,
    Family.EXPIRY: 9,
}
SLOT_AT = {Family.REQUEST: 1, Family.REQUEST_HOUR: 5}

Chain = tuple[int, Partition]
MAIL, TALLY = 3, 4


def slot_in(key: bytes) -> Slot | None:
    family = Family(key[0])
    if family in PARTITION_AT:
        return slot_of(Partition(keys.split_terminated(key, PARTITION_AT[family])[0]))
    if family in SLOT_AT:
        return Slot(keys.U16.unpack_from(key, SLOT_AT[family])[0])
    return None


def keys_of(store: MemoryStore, slot: Slot, *, built: bool = True) -> dict[bytes, bytes]:
    """`built` False: without entries of indexes, which a build puts at any time."""
    return {
        key: raw
        for key, raw in store.scan(b"\x00", b"\xff")
        if slot_in(key) == slot and (built or key[0] != Family.INDEX)
    }


class Observer:
    """Fed with every committed entry of the data groups in the order of commit."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.chains: dict[Chain, list[tuple[Seq, Seq]]] = {}
        self.rows: dict[Chain, dict[bytes, dict[int, object]]] = {}
        self.frozen: dict[Slot, dict[bytes, bytes]] = {}
        self.counts: dict[str, int] = {}
        self._marks: dict[int, bytes] = {}

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def saw(self, group: GroupId, entry: LogEntry) -> None:
        if not group or not entry.payload:
            return
        decoded = codec.decode_entry(entry.payload)
        if decoded.term != entry.term:
            return
        if decoded.seq_last & SEQ_GROUP_MASK not in (group, 0):
            raise Violation(f"group {group} stands at a number of another group")
        for command in decoded.commands:
            effects = command.effects
            if effects and effects[0][0][0] == Family.STAGED:
                raise Violation("no command is large enough for stages here")
            if not (effects and effects[0][0][0] == Family.SLOT):
                self._note(group, command)

    def _note(self, group: GroupId, command: Command) -> None:
        changed: set[Chain] = set()
        for key, value in command.effects:
            if key[0] == Family.CHANGE and value is not None:
                self._note_change(group, key, value)
            elif key[0] == Family.ROW:
                name, at = keys.split_terminated(key, 5)
                chain = (keys.table_of(key), Partition(name))
                changed.add(chain)
                rows = self.rows.setdefault(chain, {})
                row = None if value is None else codec.decode_row(value)[1]
                if row is None:
                    rows.pop(key[at:], None)
                else:
                    rows[key[at:]] = row
        for chain in changed:
            self._check_rows(chain)

    def _note_change(self, group: GroupId, key: bytes, value: bytes) -> None:
        name, _ = keys.split_terminated(keys.chain_of_change(key), 4)
        chain = (keys.U32.unpack_from(key, 5)[0], Partition(name))
        _, prev_seq, _, _, _ = codec.decode_change(value)
        seq = codec.decode_seq(key[-8:])
        known = self.chains.setdefault(chain, [])
        newest = known[-1][0] if known else Seq(0)
        if prev_seq != newest:
            raise Violation(f"change {seq} in group {group} follows {prev_seq}, not {newest}")
        if seq <= newest or seq & SEQ_GROUP_MASK != group:
            raise Violation(f"change {seq} in group {group} does not rise above {newest}")
        known.append((seq, prev_seq))

    def _check_rows(self, chain: Chain) -> None:
        rows = self.rows[chain].values()
        mails = [row[MAIL] for row in rows if MAIL in row]
        if len(set(mails)) != len(mails):
            raise Violation(f"a UNIQUE value twice in {chain}")

    def tallied(self, chain: Chain) -> int:
        """How many rows there are by the log."""
        return len(self.rows.get(chain, {}))

    # ---- stores ---------------------------------------------------------------------------------

    def look(self, group: GroupId, store: MemoryStore) -> None:
        """After a batch: what the states of slots say of their keys."""
        slot = self.slot
        raw = store.get(keys.slot(slot))
        if not group or raw is None or self._marks.get(group) == raw:
            return
        self._marks[group] = raw
        record = decode_slot(raw)
        self.count(record.state.name)
        match record.state:
            case SlotState.FROZEN:
                self.frozen[slot] = keys_of(store, slot, built=False)
            case SlotState.IMPORTING if (
                record.arrival is not None and record.arrival.state is ArrivalState.COMPLETE
            ):
                # Compared now: what opens it may be applied with the first writes behind it.
                self.count("complete")
                held, wanted = keys_of(store, slot, built=False), self.frozen[slot]
                if held != wanted:
                    different = {Family(key[0]).name for key in held.keys() ^ wanted.keys()}
                    raise Violation(f"slot {slot} came with other keys: {different}")
            case SlotState.GONE:
                left = keys_of(store, slot)
                if left:
                    raise Violation(f"slot {slot} is gone from {group}, {len(left)} keys are left")
            case _:
                pass


class Silence:
    """The sink of a follower: it watches everything, and judges what it is told."""

    def __init__(self) -> None:
        self.last: dict[Chain, Seq] = {}
        self.closed: set[Slot] = set()

    def watches(self, chain: bytes) -> bool:
        return True

    def publish(self, batch: ChangeBatch) -> None:
        for change in batch.changes:
            chain = (int(change.table), change.partition)
            if change.seq <= self.last.get(chain, 0):
                raise Violation(f"a follower was told of change {change.seq} again")
            self.last[chain] = change.seq

    def close_table(self, table: int) -> None: ...

    def close_older(self, table: TableDef) -> None: ...

    def close_slots(self, slots: Collection[Slot], detail: str) -> None:
        self.closed.update(slots)

    def close_all(self, reason: str) -> None: ...


def entries_of(store: MemoryStore, family: Family, table: int, number: int) -> list[bytes]:
    prefix = keys.index_entries(family, table, number)  # type: ignore[arg-type]
    return [key for key, _ in store.scan(prefix, keys.prefix_end(prefix))]


def check_indexes(store: MemoryStore, table: TableDef, slots: Iterable[Slot]) -> None:
    """Every row of open slots has its entry in every index that is ready, and no entry is over."""
    wanted = frozenset(slots)
    prefix = keys.table_rows(table.id)
    rows = sum(
        1
        for key, raw in store.scan(prefix, keys.prefix_end(prefix))
        if slot_in(key) in wanted and not codec.is_tombstone(raw)
    )
    for index in table.indexes:
        found = [
            key
            for key in entries_of(store, Family.INDEX, table.id, index.id)
            if slot_in(key) in wanted
        ]
        if len(found) != rows:
            raise Violation(f"index {index.id}: {len(found)} entries for {rows} rows")
