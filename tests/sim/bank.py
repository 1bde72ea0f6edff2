"""A bank in each group: transfers between accounts are transactions, so its total never changes.

Accounts are rows of the simulated table in a partition of their own; a transfer adds its number to
the lists of the accounts it moves money between, so the other checkers judge it too. Auditors add
everything up, in one snapshot or through a transaction that takes its time.

Keeps: a total that is off raises at once (`Violation`), wherever it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from kalamdb.model import codec
from kalamdb.model.change import Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition
from kalamdb.model.work import ChangeKeys, CommitRows, RequestTag
from tests.sim import calls
from tests.sim.history import Elements
from tests.sim.member import Member
from tests.sim.reference import Violation
from tests.sim.schema import (
    BALANCE_COLUMN,
    KEY_COLUMN,
    TABLE,
    appending,
    elements_of,
    key_bytes,
)

ACCOUNTS = 4
MOVES_AFTER_S = 2.0  # to new accounts: the search for an order of one key's operations is bounded
FIRST_BALANCE = 100  # of a row without one
ROOM_BYTES = 1 << 20


def moving(number: int, amount: int) -> Callable[[Row], Row]:
    add = appending(number, None)

    def change(row: Row) -> Row:
        return add(row) | {BALANCE_COLUMN: row.get(BALANCE_COLUMN, FIRST_BALANCE) + amount}

    return change


def accounts_at(elapsed_s: float) -> tuple[int, ...]:
    first = int(elapsed_s / MOVES_AFTER_S) * ACCOUNTS
    return tuple(range(first, first + ACCOUNTS))


def check_total(where: str, raws: Iterable[bytes]) -> None:
    """Of the accounts of a time all are there, or none yet."""
    found: dict[int, list[int]] = {}
    for raw in raws:
        row = codec.decode_row(raw)[1]
        if row is not None:
            time = row[KEY_COLUMN] // ACCOUNTS
            found.setdefault(time, []).append(row.get(BALANCE_COLUMN, FIRST_BALANCE))
    for balances in found.values():
        if (len(balances), sum(balances)) != (ACCOUNTS, ACCOUNTS * FIRST_BALANCE):
            raise Violation(f"{where}: the bank holds {balances}")


async def transfer(
    member: Member,
    group: int,
    partition: Partition,
    keys: tuple[int, ...],
    *,
    number: int,
    tag: RequestTag,
    dice: Random,
) -> tuple[Outcome, tuple[Elements, ...] | None]:
    """The outcome, and the lists of the accounts after it; None for those when an earlier attempt
    had done it. Raises Conflict, Unavailable, Indeterminate.
    """
    replica = member.replicas[group]
    await calls.confirm(member, group)
    done = replica.recall(tag)
    if done is not None:
        return await done, None
    part = replica.open_transaction(partition)
    try:
        seen: list[Elements] = []
        for key, amount in zip(keys, amounts(len(keys)), strict=True):
            asked = ChangeKeys(TABLE, partition, [key_bytes(key)], moving(number, amount))
            outcome = await part.write(asked, ROOM_BYTES)
            if not outcome.affected:
                return outcome, ()
            raw = part.get(TABLE, key_bytes(key))
            row = None if raw is None else codec.decode_row(raw)[1]
            assert row is not None
            seen.append(elements_of(row))
            await member.pause(dice.choice((0.0, 0.0, 0.003, 0.03)))
        asked = CommitRows(partition, f"t{number}-{member.node}", (), 0, len(keys), 0)
        outcome = await calls.within(part.commit(asked, tag))
        mine = outcome.rows == ((asked.transaction_id,),)
        return outcome, tuple(seen) if mine else None
    finally:
        part.close()


def amounts(count: int) -> list[int]:
    """What each account gets; nothing in all."""
    return [1 - count, *[1] * (count - 1)]


async def audit(
    member: Member, group: int, partition: Partition, keys: tuple[int, ...], dice: Random
) -> None:
    """Add up: in one snapshot, and again later in a transaction that began with it."""
    await calls.confirm(member, group)
    replica = member.replicas[group]
    where = f"node {member.node} group {group}"
    with replica.snapshot() as snapshot:
        check_total(where, [raw for _, raw in snapshot.scan(TABLE, partition)])
    part = replica.open_transaction(partition)
    try:
        found: list[bytes] = []
        for key in keys:
            raw = part.get(TABLE, key_bytes(key))
            if raw is not None:
                found.append(raw)
            await member.pause(dice.choice((0.0, 0.002, 0.02)))
        check_total(f"{where}, in a transaction", found)
    finally:
        part.close()
