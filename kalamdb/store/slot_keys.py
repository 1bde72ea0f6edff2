"""All keys of one slot, and its image.

A slot is a hash over partitions, and families are ordered by table and partition (changes and
expiry by hour before that), so its keys are scattered. Every (table, partition) chain that has a
key has a LAST key, and LAST is small: one scan of it with a filter finds the chains; everything
else is ranges that begin with a chain, found by seeks.

Order of the walk, the same in every group: chain by chain EXPIRY, CHANGE, INDEX, UNIQUE, HISTORY,
DEAD, SEQ, ROW, LAST; then REQUEST before REQUEST_HOUR. What leads to other keys comes after them,
so a walk finds what an interrupted purge has left. An image has the families of a chain the other
way round, and the newest hour of changes first: what leads to other keys comes before them, so a
walk finds what an interrupted import has brought.

It may run in a thread, on a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import xxhash

from kalamdb.model import codec, keys
from kalamdb.model.ids import (
    HOUR_MS,
    SEQ_TIME_SHIFT,
    Partition,
    Seq,
    Slot,
    TableId,
    seq_hour,
    slot_of,
)
from kalamdb.model.keys import Family
from kalamdb.model.slot import SlotPiece
from kalamdb.store.catalog_codec import Fence, FenceState, decode_fence
from kalamdb.store.kv import KeyReader, prefix_end

Pairs = Iterator[tuple[bytes, bytes]]

PIECE_BYTES = 128 << 10  # decided and applied in one step of the loop

# How each family goes with a slot. A new family has to be put in one of them.
BY_CHAIN = (Family.HISTORY, Family.DEAD, Family.SEQ, Family.ROW)  # family | table | partition
BY_INDEX = (Family.INDEX, Family.UNIQUE)  # family | table | index | partition
BY_HOUR = (Family.EXPIRY, Family.CHANGE)  # family | hour | table | partition
BY_SLOT = (Family.REQUEST, Family.REQUEST_HOUR)
OF_THE_GROUP = (
    Family.META,
    Family.SLOT,
    Family.FENCE,  # of the group, and told to the other with the image
    Family.CHANGE_FLOOR,
    Family.CATALOG,
    Family.STAGED,
    Family.AUDIT,
)
UNUSED = (Family.FLOOR, Family.SEGMENT, Family.TOPIC)  # nothing writes them in this release

_LAST = bytes([Family.LAST])
_TABLE_AT_5 = frozenset((int(Family.EXPIRY), int(Family.CHANGE)))
_NO_TABLE = frozenset(map(int, (*BY_SLOT, Family.FENCE)))


def table_of_key(key: bytes) -> TableId | None:
    """The table of a key of a slot; None for request ids and fences."""
    if key[0] in _NO_TABLE:
        return None
    return TableId(keys.U32.unpack_from(key, 5 if key[0] in _TABLE_AT_5 else 1)[0])


def slot_of_key(key: bytes, start: int) -> Slot:
    """The slot of a key whose partition begins at `start`."""
    return slot_of(Partition(keys.split_terminated(key, start)[0]))


def chains_of(reader: KeyReader, slot: Slot) -> list[bytes]:
    """The chains of a slot, in key order."""
    found: list[bytes] = []
    for key, _ in reader.scan(_LAST, prefix_end(_LAST)):
        if slot_of_key(key, 5) == slot:
            found.append(key[1:])
    return found


class SlotWalk:
    """The keys of a slot in one state of its group. `done` counts the chains gone through."""

    def __init__(self, reader: KeyReader, slot: Slot) -> None:
        self._reader = reader
        self._slot = slot
        self.chains = chains_of(reader, slot)
        self.done = 0
        self._numbers: dict[tuple[Family, TableId], tuple[int, ...]] = {}
        self._fences: dict[TableId, Fence | None] = {}

    def fences(self) -> list[Fence]:
        """Of all tables with keys in the slot."""
        tables = dict.fromkeys(_table(chain) for chain in self.chains)
        return [fence for table in tables if (fence := self._fence(table)) is not None]

    def pairs(self, *, dropped: bool = True) -> Pairs:
        """`dropped` False: without the rows of dropped tables."""
        for chain in self.chains:
            fence = self._fence(_table(chain))
            if dropped or (fence is not None and fence.state is FenceState.ACTIVE):
                parts = self._parts(chain, fence)
                for part in parts if dropped else reversed(parts):
                    yield from part()
            self.done += 1
        requests = keys.U16.pack(self._slot)
        yield from self._under(bytes([Family.REQUEST]) + requests)
        for hour in self._hours(Family.REQUEST_HOUR):
            yield from self._under(bytes([Family.REQUEST_HOUR]) + keys.U32.pack(hour) + requests)

    def _parts(self, chain: bytes, fence: Fence | None) -> list[Callable[[], Pairs]]:
        """The families of a chain as a purge takes them, the changes hour by hour. What is in one
        is looked for when it is asked for.
        """
        parts: list[Callable[[], Pairs]] = []
        if fence is None or not fence.table.has_tombstones:
            parts.append(partial(self._expiry, chain))
        parts += [
            partial(self._under, _at_hour(Family.CHANGE, hour, chain))
            for hour in self._change_hours(chain)
        ]
        parts += [partial(self._indexed, family, chain) for family in BY_INDEX]
        parts += [partial(self._under, bytes([family]) + chain) for family in BY_CHAIN]
        return [*parts, partial(self._last, chain)]

    def _expiry(self, chain: bytes) -> Pairs:
        for hour in self._seq_hours(chain):
            yield from self._under(_at_hour(Family.EXPIRY, hour, chain))

    def _indexed(self, family: Family, chain: bytes) -> Pairs:
        for number in self._index_numbers(family, _table(chain)):
            yield from self._under(keys.index_entries(family, _table(chain), number) + chain[4:])

    def _last(self, chain: bytes) -> Pairs:
        raw = self._reader.get(_LAST + chain)
        if raw is not None:
            yield _LAST + chain, raw

    def _under(self, prefix: bytes) -> Pairs:
        return self._reader.scan(prefix, prefix_end(prefix))

    def _fence(self, table: TableId) -> Fence | None:
        if table not in self._fences:
            raw = self._reader.get(keys.fence(table))
            self._fences[table] = None if raw is None else decode_fence(raw)
        return self._fences[table]

    def _index_numbers(self, family: Family, table: TableId) -> tuple[int, ...]:
        found = self._numbers.get((family, table))
        if found is None:
            found = self._numbers[family, table] = tuple(index_numbers(self._reader, family, table))
        return found

    # ---- hours ----------------------------------------------------------------------------------

    def _hours(self, family: Family) -> Iterator[int]:
        """The hours that have a key of the family."""
        hour = 0
        end = bytes([family + 1])
        while True:
            start = bytes([family]) + keys.U32.pack(hour)
            first = next(self._reader.scan(start, end), None)
            if first is None:
                return
            hour = keys.U32.unpack_from(first[0], 1)[0]
            yield hour
            hour += 1

    def _seq_hours(self, chain: bytes) -> Iterator[int]:
        """The hours in which rows of the chain were written that are its newest versions."""
        prefix = bytes([Family.SEQ]) + chain
        start, end = prefix, prefix_end(prefix)
        while True:
            first = next(self._reader.scan(start, end), None)
            if first is None:
                return
            hour = seq_hour(Seq(keys.U64.unpack_from(first[0], len(first[0]) - 8)[0]))
            yield hour
            start = prefix + keys.U64.pack((hour + 1) * HOUR_MS << SEQ_TIME_SHIFT)

    def _change_hours(self, chain: bytes) -> list[int]:
        """The hours with changes of the chain, ascending: found from its last change backwards."""
        raw = self._reader.get(_LAST + chain)
        seq = Seq(0) if raw is None else codec.decode_seq(raw)
        found: list[int] = []
        while seq:
            hour = seq_hour(seq)
            first = next(self._under(_at_hour(Family.CHANGE, hour, chain)), None)
            if first is None:
                break
            found.append(hour)
            seq = codec.decode_change(first[1])[1]
            if seq_hour(seq) >= hour:
                break  # the first changes of the hour are removed, and with them all before
        found.reverse()
        return found


def index_numbers(reader: KeyReader, family: Family, table: TableId) -> Iterator[int]:
    """The index numbers that have entries, found by seeking from one to the next."""
    start = keys.index_entries(family, table, 0)
    stop = prefix_end(keys.index_entries(family, table, (1 << 16) - 1))
    while True:
        first = next(iter(reader.scan(start, stop)), None)
        if first is None:
            return
        number = keys.index_of(first[0])
        yield number
        start = prefix_end(keys.index_entries(family, table, number))


def _table(chain: bytes) -> TableId:
    return TableId(keys.U32.unpack_from(chain)[0])


def _at_hour(family: Family, hour: int, chain: bytes) -> bytes:
    return bytes([family]) + keys.U32.pack(hour) + chain


# ---- images, steps, digests ----------------------------------------------------------------------


def pieces(
    walk: SlotWalk, fences: Iterable[tuple[bytes, bytes]], size_bytes: int = PIECE_BYTES
) -> Iterator[SlotPiece]:
    """The fences, then the keys of the slot, in pieces of about `size_bytes`."""
    after = b""
    pairs = list(fences)
    size = sum(len(key) + len(value) for key, value in pairs)
    for pair in walk.pairs(dropped=False):
        pairs.append(pair)
        size += len(pair[0]) + len(pair[1])
        if size >= size_bytes:
            upto = pairs[-1][0]
            yield SlotPiece(after, upto, tuple(pairs), walk.done)
            after, pairs, size = upto, [], 0
    if pairs:
        upto = pairs[-1][0]
        yield SlotPiece(after, upto, tuple(pairs), walk.done)
        after = upto
    yield SlotPiece(after, after, (), walk.done, last=True)


def key_steps(walk: SlotWalk, keys_max: int) -> Iterator[tuple[bytes, ...]]:
    """The keys of the slot, at most `keys_max` at a time."""
    found = (key for key, _ in walk.pairs())
    while step := tuple(islice(found, keys_max)):
        yield step


def slot_digest(reader: KeyReader, slot: Slot) -> str:
    """A hash over what a slot is, the same in any group that has it."""
    state = xxhash.xxh3_128()
    for key, value in SlotWalk(reader, slot).pairs(dropped=False):
        state.update(keys.U32.pack(len(key)) + key + keys.U32.pack(len(value)) + value)
    return state.hexdigest()
