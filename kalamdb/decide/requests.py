"""Request ids: exactly-once statements (core.md §6).

A REQUEST record stands for 24 hours with a hash of text and parameters and the outcome. An outcome
above 4 KiB is kept without its RETURNING rows: a repeat then answers the counts, which are what
makes it a repeat.

Keeps: one tenant holds at most `ids_max` ids; a new one above that is refused, none is trimmed
early.
"""

from __future__ import annotations

from dataclasses import replace

from kalamdb.decide.flight import Flight, Waiter
from kalamdb.errors import Overloaded
from kalamdb.model import codec, keys
from kalamdb.model.command import OUTCOME_SIZE_MAX_BYTES, Outcome
from kalamdb.model.ids import TenantId, slot_of, tenant_partition
from kalamdb.model.work import RequestTag
from kalamdb.store.kv import KeyReader, prefix_end

TENANTS_MAX = 10_000


def request_key(tag: RequestTag) -> bytes:
    slot = slot_of(tenant_partition(TenantId(tag.tenant)))
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
        self._counts: dict[str, int] = {}

    def clear(self) -> None:
        self._pending.clear()
        self._counts.clear()

    def trimmed(self) -> None:
        """Records went away: tenants are counted again."""
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

    def check_room(self, tag: RequestTag) -> None:
        """Raises Overloaded when the tenant holds its limit of ids."""
        count = self._counts.get(tag.tenant)
        if count is None:
            count = self._count(tag)
        if count >= self._ids_max:
            raise Overloaded(f"the request ids of {tag.tenant}", self._ids_max)

    def _count(self, tag: RequestTag) -> int:
        whole = keys.request(slot_of(tenant_partition(TenantId(tag.tenant))), tag.tenant, "", "", 0)
        prefix = whole[: 3 + len(keys.terminated(tag.tenant.encode()))]
        count = 0
        for _ in self._reader.scan(prefix, prefix_end(prefix)):
            count += 1
            if count >= self._ids_max:
                break
        if len(self._counts) >= TENANTS_MAX:
            self._counts.clear()
        self._counts[tag.tenant] = count
        return count

    def add(self, tag: RequestTag, flight: Flight) -> None:
        assert flight.request_key is not None
        self._pending[flight.request_key] = flight
        if tag.tenant in self._counts:
            self._counts[tag.tenant] += 1

    def done(self, flight: Flight) -> None:
        if flight.request_key is not None:
            self._pending.pop(flight.request_key, None)
