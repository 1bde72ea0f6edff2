"""All open transactions of a node: who has them, for how long, with how many bytes.

`sweep` runs once a second: a transaction that was open or idle for too long, or whose leader
changed, is rolled back and lets its snapshots go; its next statement is told why.

Keeps: everything is bounded (transactions of a user and of the node, bytes of one and of all,
time); an id is good for the user it was given to and for nobody else, and another's id looks like
one that never was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from kalamdb.config import TransactionSettings
from kalamdb.errors import KalamError, LimitReached, Overloaded, Unavailable
from kalamdb.lib.clock import Clock, Ids, uuid7
from kalamdb.lib.tasks import every
from kalamdb.model.ids import Seq
from kalamdb.model.principal import Principal
from kalamdb.ports import Groups, TransactionGroups
from kalamdb.session.transaction import State, Transaction
from kalamdb.transaction_errors import TransactionTimeout, UnknownTransaction

DOOMED_MAX = 10_000
SWEEP_S = 1.0


_NODE_DIGITS = 5  # the random end of the id says where the transaction is


def named_of(node: int, unique_id: str) -> str:
    """The id of a transaction that lives on `node`."""
    return f"{unique_id[:-_NODE_DIGITS]}{node:0{_NODE_DIGITS}x}"


def node_of(transaction_id: str) -> int | None:
    """Where it lives; None for what is no id."""
    try:
        return int(transaction_id[-_NODE_DIGITS:], 16)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A plain record of one open transaction."""

    transaction_id: str
    user: str
    actor: str
    origin: str
    state: str
    age_ms: int
    idle_ms: int
    write_count: int
    write_bytes: int
    tables: int
    snapshot_seq: Seq


@dataclass(frozen=True, slots=True)
class TransactionStatistics:
    """`open` and `write_bytes` are now, the others since start."""

    open: int
    write_bytes: int
    begun_total: int
    committed_total: int
    rolled_back_total: int
    timed_out_total: int


class Transactions:
    """See the module."""

    def __init__(
        self,
        groups: Groups,
        parts: TransactionGroups,
        clock: Clock,
        ids: Ids,
        limits: TransactionSettings,
        *,
        node: int = 1,
    ) -> None:
        self._node = node
        self.limits = limits
        self.recall = parts.recall
        self._groups = groups
        self._parts = parts
        self._clock = clock
        self._ids = ids
        self._open: dict[str, Transaction] = {}
        self._per_user: dict[str, int] = {}
        self._doomed: OrderedDict[str, tuple[Principal, KalamError]] = OrderedDict()
        self._held_bytes = 0
        self._begun = self._committed = self._rolled_back = self._timed_out = 0

    # ---- one transaction ------------------------------------------------------------------------

    def begin(self, principal: Principal, origin: str, *, read_only: bool) -> Transaction:
        """Raises LimitReached, Overloaded."""
        user = str(principal.actor)
        mine = self._per_user.get(user, 0)
        if mine >= self.limits.max_per_user:
            raise LimitReached(
                "transactions.max_per_user",
                f"at most {self.limits.max_per_user} are open at a time",
            )
        if len(self._open) >= self.limits.max_open:
            raise Overloaded("the list of open transactions", self.limits.max_open)
        transaction_id = named_of(self._node, str(uuid7(self._clock.wall_ms(), self._ids)))
        made = Transaction(
            transaction_id,
            principal,
            self._groups,
            self._parts,
            read_only=read_only,
            origin=origin,
            now_s=self._clock.monotonic_s(),
        )
        self._open[transaction_id] = made
        self._per_user[user] = mine + 1
        self._begun += 1
        return made

    def find(self, transaction_id: str, principal: Principal) -> Transaction:
        """Raises UnknownTransaction, what it died of."""
        found = self._open.get(transaction_id)
        if found is not None and found.owner == principal:
            return found
        doomed = self._doomed.get(transaction_id)
        if doomed is not None and doomed[0] == principal:
            raise doomed[1]
        raise UnknownTransaction(transaction_id)

    def make_room(self, transaction: Transaction) -> None:
        """Before a statement: how much it may write. Raises Overloaded."""
        self._count(transaction)
        left = self.limits.max_total_bytes - self._held_bytes
        if left <= 0:
            raise Overloaded("the memory of open transactions", self.limits.max_total_bytes)
        transaction.room_bytes = min(left, self.limits.max_bytes - transaction.size_bytes)

    def settled(self, transaction: Transaction, *, committed: bool) -> None:
        """It has ended: forget it."""
        if not transaction.ended:
            transaction.end()
        self._count(transaction)
        if self._open.pop(transaction.id, None) is None:
            return
        user = str(transaction.owner.actor)
        left = self._per_user[user] - 1
        if left:
            self._per_user[user] = left
        else:
            del self._per_user[user]
        if committed:
            self._committed += 1
        else:
            self._rolled_back += 1

    def used(self, transaction: Transaction) -> None:
        """A request of it was answered: it is idle from now on."""
        transaction.busy = False
        transaction.used_s = self._clock.monotonic_s()
        self._count(transaction)

    def _count(self, transaction: Transaction) -> None:
        size_bytes = transaction.size_bytes
        self._held_bytes += size_bytes - transaction.counted_bytes
        transaction.counted_bytes = size_bytes

    # ---- all of them ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Sweep until cancelled."""
        await every(SWEEP_S, self.sweep, name="transactions")

    async def sweep(self) -> None:
        """Roll back what had its time or lost its leader."""
        now_s = self._clock.monotonic_s()
        for transaction in list(self._open.values()):
            doom = self._doom(transaction, now_s)
            if doom is not None:
                self._end(transaction, doom)

    def _doom(self, transaction: Transaction, now_s: float) -> KalamError | None:
        limits = self.limits
        if transaction.state is State.COMMITTING:
            return None  # it is decided; its waiter will tell
        if transaction.lost:
            return Unavailable("the leader changed and the transaction was rolled back")
        if now_s - transaction.began_s > limits.timeout_s:
            self._timed_out += 1
            return TransactionTimeout("open", limits.timeout_s)
        if not transaction.busy and now_s - transaction.used_s > limits.idle_timeout_s:
            self._timed_out += 1
            return TransactionTimeout("idle", limits.idle_timeout_s)
        return None

    def kill(self, transaction_id: str) -> None:
        """Roll it back, unless it has ended or is being committed."""
        found = self._open.get(transaction_id)
        if found is not None and found.state is not State.COMMITTING:
            self._end(found, Unavailable("the transaction was killed and rolled back"))

    def _end(self, transaction: Transaction, doom: KalamError) -> None:
        transaction.end(doom)
        self._doomed[transaction.id] = (transaction.owner, doom)
        if len(self._doomed) > DOOMED_MAX:
            self._doomed.popitem(last=False)
        self.settled(transaction, committed=False)

    def list(self) -> Iterable[OpenTransaction]:
        """Every open one, oldest first."""
        now_s = self._clock.monotonic_s()
        for transaction in list(self._open.values()):
            rows, tables = transaction.written
            yield OpenTransaction(
                transaction.id,
                str(transaction.owner.user),
                str(transaction.owner.actor),
                transaction.origin,
                transaction.state.value,
                int((now_s - transaction.began_s) * 1000),
                0 if transaction.busy else int((now_s - transaction.used_s) * 1000),
                rows,
                transaction.size_bytes,
                tables,
                transaction.snapshot_seq,
            )

    def statistics(self) -> TransactionStatistics:
        return TransactionStatistics(
            len(self._open),
            self._held_bytes,
            self._begun,
            self._committed,
            self._rolled_back,
            self._timed_out,
        )
