"""Request ids: exactly-once statements (core.md §6).

A REQUEST record stands for 24 hours with a hash of text and parameters and the outcome. An outcome
above 4 KiB is kept without its RETURNING rows: a repeat then answers the counts, which are what
makes it a repeat.

Keeps: one tenant holds at most `ids_max` ids in a slot; a new one above that is refused, none is
trimmed early. A record stands in the slot of what was written, and goes where that goes.
"""

from __future__ import annotations

from dataclasses import replace

from kalamdb.decide.flight import Flight, Waiter
from kalamdb.errors import Overloaded
from kalamdb.model import codec, keys
from kalamdb.model.command import OUTCOME_SIZE_MAX_BYTES, Outcome
from kalamdb.model.ids import Slot, TenantId, slot_of, tenant_partition
from kalamdb.model.work import RequestTag
from kalamdb.store.kv import KeyReader, prefix_end

TENANTS_MAX = 10_000


def home_slot(tag: RequestTag) -> Slot:
    """The slot of the tenant who asks."""
    return slot_of(tenant_partition(TenantId(tag.tenant)))


def request_key(tag: RequestTag, slot: Slot) -> bytes:
    """`slot` is that of the partition that is written, so that the record moves with the rows."""
    return keys.request(slot, tag.tenant, tag.actor, tag.request_id, tag.number)


def stored_outcome(outcome: Outcome) -> bytes:
    raw = codec.encode_outcome(outcome)
    if len(raw) <= OUTCOME_SIZE_MAX_BYTES:
        return raw
    return codec.encode_outcome(replace(outcome, columns=None, rows=None))


class Requests:
    """Pending commands by request key, and how many ids each tenant holds. Sequencer state."""

    def __init__(self, reader: KeyReader, ids_max: int) -> None:
        self._reader = reader
        self._ids_max = ids_max
        self._pending: dict[bytes, Flight] = {}
        self._counts: dict[tuple[Slot, str], int] = {}

    def clear(self) -> None:
        self._pending.clear()
        self._counts.clear()

    def trimmed(self) -> None:
        """Records came or went: tenants are counted again."""
        self._counts.clear()

    def join(self, key: bytes, tag: RequestTag, waiter: Waiter) -> bool | None:
        """Wait for the pending command of `key`: True. None when there is none, False when its hash
        differs.
        """
        pending = self._pending.get(key)
        if pending is None:
            return None
        if pending.hash != tag.hash:
            return False
        pending.waiters.append(waiter)
        return True

    def check_room(self, tag: RequestTag, slot: Slot) -> None:
        """Raises Overloaded when the tenant holds its limit of ids."""
        count = self._counts.get((slot, tag.tenant))
        if count is None:
            count = self._count(tag, slot)
        if count >= self._ids_max:
            raise Overloaded(f"the request ids of {tag.tenant}", self._ids_max)

    def _count(self, tag: RequestTag, slot: Slot) -> int:
        whole = keys.request(slot, tag.tenant, "", "", 0)
        prefix = whole[: 3 + len(keys.terminated(tag.tenant.encode()))]
        count = 0
        for _ in self._reader.scan(prefix, prefix_end(prefix)):
            count += 1
            if count >= self._ids_max:
                break
        if len(self._counts) >= TENANTS_MAX:
            self._counts.clear()
        self._counts[slot, tag.tenant] = count
        return count

    def add(self, tag: RequestTag, slot: Slot, flight: Flight) -> None:
        assert flight.request_key is not None
        self._pending[flight.request_key] = flight
        if (slot, tag.tenant) in self._counts:
            self._counts[slot, tag.tenant] += 1

    def done(self, flight: Flight) -> None:
        if flight.request_key is not None:
            self._pending.pop(flight.request_key, None)
