"""Errors of transactions, in the families of `errors`.

StatementFailed ─ TransactionMisused · NotInTransaction · TransactionReadOnly
                  · TransactionCrossGroup · UnknownSavepoint · TransactionAborted
                  · TransactionTimeout · UnknownTransaction
Conflict ─ TransactionBusy
"""

from __future__ import annotations

from kalamdb.errors import Conflict, KalamError, StatementFailed


class TransactionMisused(StatementFailed):
    """BEGIN inside a transaction, COMMIT without one, one left open at the end of its request."""


class NotInTransaction(StatementFailed):
    """What `construct` says cannot run between BEGIN and COMMIT."""

    fields = ("construct", "hint")

    def __str__(self) -> str:
        return f"{self.construct} cannot run inside a transaction" + (
            f"; {self.hint}" if self.hint else ""
        )


class TransactionReadOnly(StatementFailed):
    fields = ()
    text = "the transaction is READ ONLY"


class TransactionCrossGroup(StatementFailed):
    """A transaction writes the rows of one tenant, or of one SHARED table, and of nobody else."""

    fields = ("first", "second")
    text = (
        "a transaction works with the rows of one tenant, or writes one SHARED table: this one has"
        " {first}, and {second} cannot join it"
    )


class UnknownSavepoint(StatementFailed):
    fields = ("name",)
    text = "savepoint {name} does not exist in this transaction"


class TransactionAborted(StatementFailed):
    """A statement of the transaction failed; until ROLLBACK (TO a savepoint) nothing runs in it.
    `ended`: it was asked to COMMIT, and is gone now.
    """

    fields = ("ended",)

    def __str__(self) -> str:
        if self.ended:
            return "a statement of this transaction failed: COMMIT rolled it back"
        return (
            "a statement of this transaction failed: nothing runs in it until ROLLBACK, or"
            " ROLLBACK TO a savepoint"
        )


class TransactionTimeout(StatementFailed):
    """It was open, or idle, for longer than it may be, and was rolled back."""

    fields = ("what", "limit_s")
    text = "the transaction was {what} for over {limit_s:g} s and was rolled back; run it again"


class UnknownTransaction(StatementFailed):
    fields = ("transaction_id",)
    text = (
        "transaction {transaction_id} is not open: it has ended, or never was yours; to learn"
        " the outcome of a COMMIT, repeat it with the request_id it had"
    )


class TransactionBusy(Conflict):
    """Another request of the same transaction is under way."""

    fields = ("transaction_id",)
    text = (
        "another request of transaction {transaction_id} is under way; nothing was done: send its"
        " requests one after the other"
    )

    def __str__(self) -> str:
        return KalamError.__str__(self)
