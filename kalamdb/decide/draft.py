"""A decision in the making: what it reads, what it would put, the numbers it has drawn.

Nothing of a draft is visible before the sequencer takes it over, so a refusal leaves no trace: the
overlay, the seq counter and the chains are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kalamdb.errors import StatementTooLarge
from kalamdb.model import codec
from kalamdb.model.command import RETURNED_MAX_BYTES, STATEMENT_EFFECTS_MAX_BYTES, Effect
from kalamdb.model.ids import (
    SEQ_EPOCH_MS,
    SEQ_GROUP_MASK,
    SEQ_STEP,
    SEQ_TIME_SHIFT,
    GroupId,
    Partition,
    Seq,
    Slot,
    TableId,
    seq_ms,
    slot_of,
)
from kalamdb.store.rows import PartitionKeys


class Chain(PartitionKeys):
    """The keys of one (table, partition) with the seq of its last decided change."""

    __slots__ = ("last_seq", "slot")

    def __init__(self, table: TableId, partition: Partition, last_seq: Seq) -> None:
        super().__init__(table, partition)
        self.last_seq = last_seq
        self.slot: Slot = slot_of(partition)


LARGE_BYTES = 1_024
"""Values below are not counted while they are put: their number bounds them well enough."""

Chains = Callable[[TableId, Partition], Chain]


class Draft:
    """Reads see the draft's own puts, then what is decided, then what is applied."""

    __slots__ = (
        "_decided",
        "_large_bytes",
        "_stored",
        "effects",
        "fresh",
        "group",
        "moved",
        "returned_max_bytes",
        "seq",
        "wall_ms",
    )

    def __init__(
        self,
        decided: Mapping[bytes, Effect],
        stored: Callable[[bytes], bytes | None],
        group: GroupId,
        seq_last: Seq,
        wall_ms: int,
        *,
        returned_max_bytes: int = RETURNED_MAX_BYTES,
    ) -> None:
        self._decided = decided
        self._stored = stored
        self.group = group
        self.seq = seq_last
        self.wall_ms = wall_ms
        self.returned_max_bytes = returned_max_bytes  # of RETURNING
        self.effects: list[Effect] = []
        self.fresh: dict[bytes, Effect] = {}
        self.moved: list[tuple[Chain, Seq]] = []
        self._large_bytes = 0

    def get(self, key: bytes, /) -> bytes | None:
        effect = self.fresh.get(key)
        if effect is None:
            effect = self._decided.get(key)
            if effect is None:
                return self._stored(key)
        return effect[1]

    def newer(self, key: bytes, stored: bytes | None) -> bytes | None:
        """What `get` would give, for who has read the store already."""
        effect = self.fresh.get(key) or self._decided.get(key)
        return stored if effect is None else effect[1]

    def put(self, key: bytes, value: bytes | None) -> None:
        """An effect on a key that later decisions read. Raises StatementTooLarge."""
        if value is not None and len(value) > LARGE_BYTES:
            self.count(value)
        effect = (key, value)
        self.effects.append(effect)
        self.fresh[key] = effect

    def add(self, key: bytes, value: bytes | None) -> None:
        """An effect on a key that no decision reads by name (SEQ, HISTORY, CHANGE, EXPIRY).

        Raises StatementTooLarge.
        """
        if value is not None and len(value) > LARGE_BYTES:
            self.count(value)
        self.effects.append((key, value))

    def count(self, value: bytes) -> None:
        """What will be refused is not made first: a value can stand in very many rows."""
        self._large_bytes += len(value)
        if self._large_bytes > STATEMENT_EFFECTS_MAX_BYTES:
            most = STATEMENT_EFFECTS_MAX_BYTES
            raise StatementTooLarge(f"more than {most}", most)

    def draw(self) -> Seq:
        """The next number of the group's counter: `ids.seq_next`, unfolded because every row pays
        it.
        """
        last = self.seq
        step = (last & ~SEQ_GROUP_MASK) | self.group
        if step <= last:
            step += SEQ_STEP
        now = (self.wall_ms - SEQ_EPOCH_MS) << SEQ_TIME_SHIFT | self.group
        self.seq = seq = Seq(now if now > step else step)
        return seq

    def draw_all(self, count: int) -> Iterable[Seq]:
        """The next `count` numbers, as `draw` would give them one by one: only the first depends on
        the clock, which stands still in a draft.
        """
        if not count:
            return ()
        first = self.draw()
        self.seq = last = Seq(first + (count - 1) * SEQ_STEP)
        return map(Seq, range(first, last + 1, SEQ_STEP))

    @property
    def now_ms(self) -> int:
        """The larger of wall clock and group time: what TTLs are measured against."""
        return max(self.wall_ms, seq_ms(self.seq))

    def end_chain(self, chain: Chain, last: Seq) -> None:
        self.put(chain.last, codec.encode_seq(last))
        self.moved.append((chain, last))
