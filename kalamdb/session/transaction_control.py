"""Statements that begin and end transactions, and what may run between them.

A transaction lives in one of three places: in one request (all from BEGIN to COMMIT in its text),
on a connection, or under a `transaction_id` over several requests. The statements are the same;
`Run.keeps` says whether a transaction may outlive its request.

A request id makes COMMIT exactly-once. Begun and committed in one request, a transaction is known
by the text of the request: a repeat finds its outcome at BEGIN and runs nothing. Over several
requests it is known by its id: the repeated COMMIT finds the outcome when the transaction is gone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

import orjson

from kalamdb.errors import Conflict, InvalidStatement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq
from kalamdb.model.work import RequestTag
from kalamdb.ports import Groups
from kalamdb.session import answers
from kalamdb.session.run import Affected, Repeat, Run, SqlRequest, check_request_id, tag_for
from kalamdb.session.stale import STALE
from kalamdb.session.transaction import State, Transaction
from kalamdb.session.transactions import Transactions
from kalamdb.sql.statement import (
    Begin,
    Commit,
    Delete,
    DescribeTable,
    ExecuteAs,
    Explain,
    Insert,
    ReleaseSavepoint,
    Rollback,
    RollbackTo,
    Savepoint,
    Select,
    SetTransaction,
    ShowCreate,
    ShowNamespaces,
    ShowTables,
    Statement,
    SubscribeTo,
    TransactionStatement,
    Update,
    UseNamespace,
)
from kalamdb.transaction_errors import (
    NotInTransaction,
    TransactionAborted,
    TransactionMisused,
    TransactionReadOnly,
    UnknownTransaction,
)

NEW = "new"
"""What a request names as its transaction to begin one that outlives it."""

_WRITES = (Insert, Update, Delete)
_ENDS = (Commit, Rollback, RollbackTo)
_RUNS_INSIDE = (
    Select,
    *_WRITES,
    ExecuteAs,
    Explain,
    UseNamespace,
    ShowNamespaces,
    ShowTables,
    DescribeTable,
    ShowCreate,
    SubscribeTo,
    Begin,
    SetTransaction,
    Commit,
    Rollback,
    Savepoint,
    ReleaseSavepoint,
    RollbackTo,
)
_ITS_COMMIT = "a request_id belongs to the COMMIT of a transaction; leave it out until then"


class TransactionControl:
    """See the module. Holds no state of one client."""

    def __init__(self, transactions: Transactions, groups: Groups) -> None:
        self.transactions = transactions
        self._groups = groups

    # ---- between BEGIN and COMMIT ---------------------------------------------------------------

    def admit(self, transaction: Transaction, statement: Statement) -> None:
        """May `statement` run in it now? Raises TransactionAborted, NotInTransaction,
        TransactionReadOnly, Overloaded, what the transaction died of.
        """
        if isinstance(statement, _ENDS):
            return
        transaction.check_runs()
        if not isinstance(statement, _RUNS_INSIDE):
            raise NotInTransaction(_words(statement), "run it before BEGIN or after COMMIT")
        inner = statement.inner if isinstance(statement, ExecuteAs) else statement
        if isinstance(inner, _WRITES):
            if transaction.read_only:
                raise TransactionReadOnly()
            self.transactions.make_room(transaction)

    def check_begins(self, statements: Sequence[Statement]) -> None:
        """Of a request that wants a new transaction. Raises TransactionMisused."""
        if not isinstance(statements[0], Begin):
            raise TransactionMisused('"transaction_id": "new" goes with BEGIN as first statement')

    def check_request_id(self, run: Run, statements: Sequence[Statement]) -> None:
        """Inside a transaction a request id is for a COMMIT. Raises InvalidStatement."""
        if run.request.request_id is not None and not any(
            isinstance(statement, Commit) for statement in statements
        ):
            raise InvalidStatement(_ITS_COMMIT)

    def check_reads(self, request: SqlRequest) -> None:
        """A transaction reads what was there when it began. Raises TransactionMisused."""
        if request.consistency == STALE or request.min_cursor is not None:
            raise TransactionMisused(
                "consistency stale and min_cursor are for reads outside a transaction"
            )

    def roll_back(self, run: Run) -> None:
        """The transaction of a request that went wrong or did not close it."""
        transaction = run.transaction
        if transaction is not None:
            self.transactions.settled(transaction, committed=False)
            run.leave(self._groups)

    def failed(self, run: Run) -> None:
        """A request that may leave its transaction open went wrong."""
        transaction = run.transaction
        if transaction is None:
            return
        if run.begun_here and run.origin == "http":
            self.roll_back(run)  # nobody was told its id
        else:
            transaction.fail()

    # ---- statements -----------------------------------------------------------------------------

    async def carry_out(self, run: Run, statement: TransactionStatement) -> bytes:
        """The result of one of them. Raises TransactionMisused and what each may raise."""
        if isinstance(statement, Begin):
            return await self._begin(run, statement)
        transaction = run.transaction
        if transaction is None:
            raise TransactionMisused(f"{_words(statement)} without a transaction: BEGIN starts one")
        match statement:
            case Commit():
                return await self._commit(run, transaction)
            case Rollback():
                self.roll_back(run)
                return _said(run, f"transaction {transaction.id} rolled back")
            case Savepoint():
                limit = self.transactions.limits.max_savepoints
                transaction.savepoint(statement.name, limit)
                return _said(run, f"savepoint {statement.name}")
            case ReleaseSavepoint():
                transaction.release(statement.name)
                return _said(run, f"savepoint {statement.name} released")
            case RollbackTo():
                transaction.rollback_to(statement.name)
                return _said(run, f"rolled back to savepoint {statement.name}")
            case SetTransaction():
                if statement.read_only is not None:
                    transaction.set_read_only(statement.read_only)
                mode = "READ ONLY" if transaction.read_only else "READ WRITE"
                return _said(run, f"the transaction is snapshot isolation, {mode}")

    async def _begin(self, run: Run, statement: Begin) -> bytes:
        if run.transaction is not None:
            raise TransactionMisused("a transaction is open already; SAVEPOINT begins a part of it")
        self.check_reads(run.request)
        commit_at = run.commit_ahead()
        if run.request.request_id is not None and commit_at is not None:
            found = await self.transactions.recall(tag_for(run, commit_at))
            if found is not None:
                run.repeat = Repeat(commit_at, _transaction_id(found), found)
                return _said(run, f"transaction {run.repeat.transaction_id} started")
        elif run.request.request_id is not None and run.keeps:
            raise InvalidStatement(_ITS_COMMIT)
        made = self.transactions.begin(run.principal, run.origin, read_only=statement.read_only)
        run.enter(made)
        run.begun_here = True
        return _said(run, f"transaction {made.id} started")

    async def _commit(self, run: Run, transaction: Transaction) -> bytes:
        failed = transaction.doom is None and transaction.state is State.FAILED
        tag = None
        if run.request.request_id is not None:
            tag = tag_for(run, run.number) if run.begun_here else _tag_by_id(run, transaction.id)
        outcome, committed = None, False
        try:
            if failed:
                raise TransactionAborted(ended=True)
            outcome = await transaction.commit(tag)
            committed = True
        finally:
            self.transactions.settled(transaction, committed=committed)
            run.leave(self._groups)
        if outcome is not None and _transaction_id(outcome) != transaction.id:
            raise Conflict("a repeat of this request was committed while this one ran")
        return committed_answer(run, transaction.id, None if outcome is None else outcome.seq)

    # ---- repeats --------------------------------------------------------------------------------

    async def committed_before(self, run: Run, statements: Sequence[Statement]) -> bytes:
        """The answer of a COMMIT that is asked again after its transaction ended. Raises
        UnknownTransaction.
        """
        transaction_id = run.request.transaction_id
        assert transaction_id is not None
        alone = len(statements) == 1 and isinstance(statements[0], Commit)
        if run.request.request_id is None or not alone:
            raise UnknownTransaction(transaction_id)
        outcome = await self.transactions.recall(_tag_by_id(run, transaction_id))
        if outcome is None:
            raise UnknownTransaction(transaction_id)
        return committed_answer(run, transaction_id, outcome.seq)


def repeated_answers(run: Run, repeat: Repeat) -> tuple[bytes, list[Affected]]:
    """The COMMIT of a transaction that an earlier request of the same id ran, and its totals."""
    outcome = repeat.outcome
    counts = (outcome.inserted, outcome.updated, outcome.deleted)
    totals = [
        Affected(verb, replace(outcome, affected=count, columns=None, rows=None))
        for verb, count in zip(answers.VERBS, counts, strict=True)
        if count
    ]
    return committed_answer(run, repeat.transaction_id, outcome.seq), totals


def committed_answer(run: Run, transaction_id: str, seq: Seq | None) -> bytes:
    """`seq` is the cursor of what was written; None when nothing was."""
    said: dict[str, object] = {
        "row_count": 0,
        "message": f"transaction {transaction_id} committed",
        "as_user": run.user,
    }
    if seq:
        said["cursor"] = str(seq)
    return orjson.dumps(said)


def _said(run: Run, text: str) -> bytes:
    return answers.message(text, run.user)


def _transaction_id(outcome: Outcome) -> str:
    """What `CommitRows` answers with. Another kind of statement never has the same hash."""
    assert outcome.rows is not None
    return str(outcome.rows[0][0])


def _tag_by_id(run: Run, transaction_id: str) -> RequestTag:
    """A transaction of several requests is told by its id, which stands for all its statements."""
    request_id = run.request.request_id
    assert request_id is not None
    check_request_id(request_id)
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=16, person=b"commit").digest()
    principal = run.principal
    return RequestTag(str(principal.user), str(principal.actor), request_id, 0, digest)


def _words(statement: Statement) -> str:
    """CreateTable → CREATE TABLE."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(statement).__name__).upper()
