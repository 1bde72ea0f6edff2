"""Each subscriber saw each change of its chain once, in order, from where its stream began.

The reference is the chain as the committed log has it. A stream begins with a snapshot, which must
be the rows at its seq, or goes on from a cursor; what follows must be the next changes, whatever
member serves them. At the end nothing of the chain may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.model.ids import Seq
from tests.sim.history import Began, Elements, Expired, Frame, Resumed, Subscription
from tests.sim.reference import GroupReference


def faults(subscription: Subscription, reference: GroupReference) -> Iterator[str]:
    name = f"subscriber {subscription.number} of {subscription.partition.decode()}"
    chain = reference.chain(subscription.partition)
    at = 0  # how many changes of the chain it has
    began = False
    for seen in subscription.seen:
        match seen:
            case Began(seq, last_change, rows):
                began = True
                at = sum(change.seq <= seq for change in chain)
                newest = chain[at - 1].seq if at else Seq(0)
                if newest != last_change:
                    yield f"{name}: snapshot at {seq} names {last_change} as newest, it is {newest}"
                if dict(rows) != rows_at(chain[:at]):
                    yield f"{name}: snapshot at {seq} is not the rows of that seq"
            case Resumed(cursor):
                if not began:
                    yield f"{name}: resumed from {cursor} without a beginning"
                before = chain[at - 1].seq if at else Seq(0)
                if cursor < before:
                    yield f"{name}: resumed from {cursor}, it had {before}"
                elif at < len(chain) and chain[at].seq <= cursor:
                    yield f"{name}: resumed from {cursor}, change {chain[at].seq} is missing"
            case Expired(cursor, reason, floor, seq_last):
                if floor > seq_last:
                    yield f"{name}: the change floor {floor} is above the group's seq {seq_last}"
                elif reason == "ahead":
                    yield f"{name}: cursor {cursor} was called ahead of the group"
                elif cursor >= floor:
                    yield f"{name}: cursor {cursor} was called expired, the floor is {floor}"
            case Frame():
                if at >= len(chain) or seen != chain[at]:
                    wanted = chain[at] if at < len(chain) else None
                    yield f"{name}: got {seen}, next of its chain is {wanted}"
                    return
                at += 1
    if began and at != len(chain):
        yield f"{name}: {len(chain) - at} changes never came, the first is {chain[at].seq}"


def rows_at(changes: list[Frame]) -> dict[bytes, Elements]:
    rows: dict[bytes, Elements] = {}
    for change in changes:
        if change.after is None:
            rows.pop(change.key, None)
        else:
            rows[change.key] = change.after
    return rows
