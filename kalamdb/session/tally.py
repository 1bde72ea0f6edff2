"""What the writes of a batch came to; what was rolled back does not count."""

from __future__ import annotations

from kalamdb.model.command import Outcome
from kalamdb.session import answers
from kalamdb.session.run import Affected, written
from kalamdb.sql.statement import (
    Begin,
    Commit,
    ReleaseSavepoint,
    Rollback,
    RollbackTo,
    Savepoint,
    Statement,
)

_BEGINNING = ""  # no savepoint has an empty name


class Tally:
    """Fed with each statement that was done, and with what it gave.

    A savepoint of an earlier request stands before everything of this one.
    """

    def __init__(self) -> None:
        self._done: list[Affected] = []
        self._marks: list[tuple[str, int]] = [(_BEGINNING, 0)]

    def add(self, affected: Affected) -> None:
        self._done.append(affected)

    def follow(self, statement: Statement) -> None:
        match statement:
            case Begin() | Commit():
                self._marks = [(_BEGINNING, len(self._done))]
            case Savepoint(name):
                self._marks.append((name, len(self._done)))
            case ReleaseSavepoint(name):
                del self._marks[max(1, self._find(name)) :]
            case RollbackTo(name):
                at = self._find(name)
                del self._done[self._marks[at][1] :]
                del self._marks[at + 1 :]
            case Rollback():
                del self._done[self._marks[0][1] :]
                self._marks = [(_BEGINNING, len(self._done))]
            case _:
                pass

    def _find(self, name: str) -> int:
        """The newest savepoint of this name; the beginning when it is none of this request."""
        for at in range(len(self._marks) - 1, 0, -1):
            if self._marks[at][0] == name:
                return at
        return 0

    def totals(self) -> list[Affected]:
        """By kind, in the order inserted, updated, deleted."""
        totals: list[Affected] = []
        for verb in answers.VERBS:
            parts = [each.outcome for each in self._done if each.verb == verb]
            if parts:
                total = sum(outcome.affected for outcome in parts)
                totals.append(Affected(verb, Outcome(total, parts[-1].seq)))
        return totals

    def results(self, user: str) -> list[bytes]:
        return [written(total, user) for total in self.totals()]
