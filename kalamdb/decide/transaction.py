"""Transactions: statements decided on a snapshot and own writes, and the commit that puts them all.

1. Each statement is decided by `rows` exactly as outside a transaction, on a draft over (own
   writes, snapshot). What it puts joins the own writes; nobody else sees it.
2. COMMIT is one piece of work, `CommitRows`: the net new row of every key written, with the seq of
   the row the snapshot showed. `commit_rows` compares, checks uniqueness again and writes the rows
   with seqs of their own, so a transaction is one command: one place in the log, one batch.

Keeps:
- First committer wins: a key that another command wrote since the snapshot refuses the whole.
- A statement that is refused leaves no trace in the own writes.
- A number drawn for a statement (SNOWFLAKE_ID, a hidden key) is the group's own: the counter is
  moved on past it, so nobody else gets it, and the row keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kalamdb.decide import rows
from kalamdb.decide.draft import Chain, Draft
from kalamdb.decide.plan import TablePlan
from kalamdb.decide.row_writer import RowWriter
from kalamdb.errors import Conflict, SchemaChanged, UnknownTable
from kalamdb.model import keys
from kalamdb.model.change import Op, Row
from kalamdb.model.codec import row_seq
from kalamdb.model.command import Effect, Outcome
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.table import TableDef
from kalamdb.model.work import ChangeKeys, CommitRows, InsertRows, PutRows, WrittenTable
from kalamdb.store.kv import KeyReader

Statement = InsertRows | ChangeKeys | PutRows
Target = Callable[[TableDef, Partition], tuple[TablePlan, Chain]]

EFFECT_OVERHEAD_BYTES = 160
"""What an own write takes in memory beside its key and value."""

# Of a version that may never be: nothing reads them, COMMIT makes the real ones.
_NOT_OWN = frozenset(
    (keys.Family.HISTORY, keys.Family.CHANGE, keys.Family.LAST, keys.Family.EXPIRY)
)
_NOTHING: Effect = (b"", None)
_ROW = int(keys.Family.ROW)


class OwnWrites:
    """What a transaction has put so far, in the order of the first put of each key.

    While there are savepoints each put remembers what it replaced; a savepoint is a place in that
    list. Keeps: what `lend` gave out is never changed afterwards.
    """

    __slots__ = ("_lent", "_ordered", "_remembers", "_undo", "effects", "row_count", "size_bytes")

    def __init__(self) -> None:
        self.effects: dict[bytes, Effect] = {}
        self.size_bytes = 0
        self.row_count = 0  # keys of rows among them
        self._undo: list[tuple[bytes, Effect]] = []
        self._remembers = False
        self._ordered: list[bytes] | None = []
        self._lent = False

    @staticmethod
    def of(draft: Draft) -> list[Effect]:
        """Those effects of a statement's draft that later statements read."""
        return [effect for effect in draft.effects if effect[0][0] not in _NOT_OWN]

    @staticmethod
    def size_of(effects: Iterable[Effect]) -> int:
        return sum(
            len(key) + (0 if value is None else len(value)) + EFFECT_OVERHEAD_BYTES
            for key, value in effects
        )

    def put(self, effects: Sequence[Effect]) -> None:
        mine = self._own()
        for effect in effects:
            key = effect[0]
            before = mine.get(key, _NOTHING)
            if before is _NOTHING:
                self._ordered = None
                self.row_count += key[0] == _ROW
            if self._remembers:
                self._undo.append((key, before))
            elif before is not _NOTHING:
                self.size_bytes -= self.size_of((before,))
            mine[key] = effect
        self.size_bytes += self.size_of(effects)

    # ---- savepoints -----------------------------------------------------------------------------

    def savepoint(self) -> int:
        """From now on puts can be undone back to here."""
        self._remembers = True
        return len(self._undo)

    def undo_to(self, place: int) -> None:
        """As it was when `savepoint` gave `place`."""
        mine = self._own()
        while len(self._undo) > place:
            key, before = self._undo.pop()
            self.size_bytes -= self.size_of((mine[key],))
            if before is _NOTHING:
                del mine[key]
                self._ordered = None
                self.row_count -= key[0] == _ROW
            else:
                mine[key] = before

    def undo_all(self) -> None:
        """As before the first put."""
        self.effects, self._ordered, self._lent = {}, [], False
        self._undo, self.size_bytes, self.row_count = [], 0, 0

    def keep(self) -> None:
        """The last savepoint is gone: what was replaced is not needed any more."""
        self.size_bytes -= self.size_of(
            before for _, before in self._undo if before is not _NOTHING
        )
        self._undo, self._remembers = [], False

    # ---- readers --------------------------------------------------------------------------------

    def lend(self) -> tuple[Mapping[bytes, Effect], Sequence[bytes]]:
        """The effects and their keys in order, as they are now and stay."""
        self._lent = True
        if self._ordered is None:
            self._ordered = sorted(self.effects)
        return self.effects, self._ordered

    def _own(self) -> dict[bytes, Effect]:
        if self._lent:
            self.effects = dict(self.effects)
            self._lent = False
        return self.effects


def decide_statement(
    draft: Draft, asked: Statement, plan: TablePlan, chain: Chain, *, reader: KeyReader
) -> Outcome:
    """One statement inside a transaction, whose snapshot is `reader`. Raises what `rows` raises.

    What it looked at needs no second look: all of it is this snapshot and these own writes.
    """
    match asked:
        case InsertRows():
            return rows.insert_rows(draft, asked, plan, chain, reader=reader)
        case ChangeKeys():
            return rows.change_keys(draft, asked, plan, chain)
        case PutRows():
            return rows.put_rows(draft, asked, plan, chain, last_seqs={})


# ---- COMMIT -------------------------------------------------------------------------------------

_Net = tuple[bytes, bytes | None, Row | None, Row | None]  # key, what ROW holds, row before, after


def commit_rows(draft: Draft, asked: CommitRows, target: Target) -> Outcome:
    """All tables of a transaction in one command.

    Raises Conflict when a row was written, or a table redefined, since the snapshot;
    UniqueViolation when a UNIQUE value was taken; NotLeader, DiskFull.
    """
    pairs = [(_writer(draft, asked, target, each.table), each) for each in asked.tables]
    nets = [(writer, _compare(writer, each)) for writer, each in pairs]
    for writer, net in nets:
        for key, _, before, after in net:
            if before is not None:
                writer.release(key, before, after)
    last = Seq(0)
    for writer, net in nets:
        for key, _, before, after in net:
            if after is not None:
                writer.claim(key, after, before)
        _write(writer, net)
        last = max(last, writer.finish().seq)
    affected = asked.inserted + asked.updated + asked.deleted
    named = ("transaction_id",), ((asked.transaction_id,),)
    return Outcome(affected, last, *named, asked.inserted, asked.updated, asked.deleted)


def _write(writer: RowWriter, net: Sequence[_Net]) -> None:
    """The versions of one table's rows, in the order of `net`."""
    if len(net) >= rows.MANY_ROWS and writer.is_plain:
        inserted = [
            (key, after, raw)
            for key, raw, before, after in net
            if before is None and after is not None
        ]
        changed = [
            (key, raw, before, after)
            for key, raw, before, after in net
            if before is not None and raw is not None
        ]
        if len(inserted) == len(net):
            writer.insert_all(inserted, writer.draft.draw_all(len(net)))
            return
        if len(changed) == len(net):
            writer.change_all(changed)
            return
    for key, raw, before, after in net:
        if before is None:
            assert after is not None
            writer.insert(key, after, raw)
        else:
            assert raw is not None
            if after is None:
                writer.remove(key, raw, Op.DELETE, before)
            else:
                writer.update(key, after, raw, before)


def _writer(draft: Draft, asked: CommitRows, target: Target, table: TableDef) -> RowWriter:
    try:
        plan, chain = target(table, asked.partition)
    except (SchemaChanged, UnknownTable) as moved:
        raise Conflict(f"the definition of {table.full_name} changed") from moved
    return RowWriter(draft, plan, chain)


def _compare(writer: RowWriter, written: WrittenTable) -> list[_Net]:
    """What there is to do. Raises Conflict when a row is not the one that was seen."""
    net: list[_Net] = []
    for key, seen, after in written.rows:
        raw = writer.draft.get(writer.chain.row + key)
        live = raw is not None and writer.is_live(raw)
        if (row_seq(raw) if raw is not None and live else 0) != seen:
            raise Conflict(f"a row of {written.table.full_name} that this transaction wrote")
        before = writer.plan.read(raw)[1] if raw is not None and live else None
        if before is not None or after is not None:
            net.append((key, raw, before, after))
    return net
