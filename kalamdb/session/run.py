"""A request on its way through a session: what its statements share, and what they give.

Keeps: nothing of one client outlives its `Run`, but for what is named in the request (a request
id).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import orjson

from kalamdb.errors import InvalidParameter, InvalidStatement, MalformedRequest
from kalamdb.model.command import Outcome
from kalamdb.model.principal import Principal
from kalamdb.model.work import RequestTag
from kalamdb.ports import Groups
from kalamdb.query.scan import ScanLimits
from kalamdb.session import answers
from kalamdb.session.stream import HeldAnswer
from kalamdb.session.transaction import Transaction
from kalamdb.sql.statement import Commit, SetOption, Statement

REQUEST_ID_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """What an edge read. `params` are JSON values; `request_id` makes a retry exactly-once.

    `streams`: the edge can send a large result piece by piece. `transaction_id`: the open
    transaction this goes on with, "new" to begin one that outlives the request. `consistency` and
    `min_cursor`: how new what it reads has to be (`session.stale`).
    """

    sql: str
    params: list[Any] | None = None
    namespace_id: str | None = None
    request_id: str | None = None
    streams: bool = False
    transaction_id: str | None = None
    consistency: str | None = None
    min_cursor: str | None = None

    @property
    def usual(self) -> bool:
        """It reads what is newest, whatever its client has seen."""
        return self.consistency is None and self.min_cursor is None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """`stale_wait_s`: how long a stale read waits for what it has to see."""

    params_max: int
    param_size_max_bytes: int
    scan: ScanLimits
    result_stall_s: float = 30.0
    stale_wait_s: float = 5.0


@dataclass(init=False)
class Run:
    """One request: what its statements share and change (USE, SET).

    `reads` and `writes` are where its data statements go: the newest state, a stale one, or a
    transaction. Every request makes one, so what few of them need is set only there: until then it
    reads as in the class.
    """

    principal: Principal
    request: SqlRequest
    namespace: str
    reads: Groups
    writes: Groups
    streams: bool  # a large result of its only statement may be streamed
    number: int = 0
    transaction: Transaction | None = None
    outside: Groups | None = None  # what was read before the open transaction
    begun_here: bool = False  # the open transaction began in this request
    keeps: bool = False  # a transaction may outlive the request
    origin: str = "sql"
    ahead: Sequence[Statement] = ()  # all statements of the request
    repeat: Repeat | None = None

    def __init__(
        self, principal: Principal, request: SqlRequest, namespace: str, groups: Groups
    ) -> None:
        self.principal = principal
        self.request = request
        self.namespace = namespace
        self.reads = self.writes = groups
        self.streams = request.streams

    def acting(self, principal: Principal) -> Run:
        """The same run as somebody else; what it changes stays its own."""
        other = copy(self)
        other.principal = principal
        return other

    @property
    def user(self) -> str:
        return self.principal.user

    def enter(self, transaction: Transaction) -> None:
        """From now on statements read and write inside it."""
        self.transaction = transaction
        self.outside = self.reads
        self.reads = self.writes = transaction
        self.streams = False

    def leave(self, groups: Groups) -> None:
        """The transaction has ended; what follows reads as before it, and writes `groups`."""
        self.transaction = None
        self.begun_here = False
        self.reads, self.writes, self.outside = self.outside or groups, groups, None

    def commit_ahead(self) -> int | None:
        """Where the next COMMIT of the request is."""
        for number in range(self.number, len(self.ahead)):
            if isinstance(self.ahead[number], Commit):
                return number
        return None


@dataclass(slots=True)
class Conversation:
    """One client's requests on a connection, one after another; a transaction may be open between
    them.
    """

    principal: Principal
    transaction: Transaction | None = None
    elsewhere: object = None  # how it goes on where its transaction is, when that is not here


@dataclass(frozen=True, slots=True)
class Repeat:
    """A transaction that an earlier request with the same id committed: statements up to its COMMIT
    are not run again.
    """

    commit_at: int
    transaction_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Affected:
    """What INSERT, UPDATE or DELETE without RETURNING did; summed up in a batch."""

    verb: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Piece:
    """Statements `start` to `stop` (not included) of a request of many, counted from 0, with what
    those before them set.
    """

    start: int
    stop: int
    namespace: str
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What a piece gave: its results, and what its writes came to by verb."""

    results: list[bytes]
    totals: list[Affected]


Result = bytes | HeldAnswer
Answer = Result | Affected


def single(answer: Answer, as_user: str) -> Result:
    """The result of a statement that stands alone."""
    return written(answer, as_user) if isinstance(answer, Affected) else answer


def written(affected: Affected, as_user: str) -> bytes:
    outcome = affected.outcome
    return answers.affected(affected.verb, outcome.affected, as_user, outcome.seq)


def tag_of(run: Run) -> RequestTag | None:
    """Names the statement for exactly-once retries; None without a request id, and inside a
    transaction, where the id is for its COMMIT.
    """
    if run.request.request_id is None or run.transaction is not None:
        return None
    return tag_for(run, run.number)


def tag_for(run: Run, number: int) -> RequestTag:
    """Names one statement of a request that has an id."""
    request_id = run.request.request_id
    assert request_id is not None
    check_request_id(request_id)
    digest = hashlib.blake2b(run.request.sql.encode(), digest_size=16)
    digest.update(orjson.dumps([run.namespace, run.request.params]))
    principal = run.principal
    return RequestTag(
        str(principal.user), str(principal.actor), request_id, number, digest.digest()
    )


def check_request_id(request_id: str) -> None:
    """Raises MalformedRequest for an empty or too long one."""
    if not 1 <= len(request_id) <= REQUEST_ID_LENGTH_MAX:
        raise MalformedRequest(f"a request id has 1 to {REQUEST_ID_LENGTH_MAX} characters")


def check_params(params: list[Any], limits: SessionLimits) -> None:
    """Raises InvalidParameter for too many, and for one that is too large."""
    if len(params) > limits.params_max:
        raise InvalidParameter(
            None, f"{len(params)} given, at most {limits.params_max} are allowed"
        )
    for index, value in enumerate(params, 1):
        if isinstance(value, str):
            size = len(value)
        elif isinstance(value, (list, dict)):
            try:
                size = len(orjson.dumps(value))
            except TypeError:
                raise InvalidParameter(index, "it is nested too deeply") from None
        else:
            continue
        if size > limits.param_size_max_bytes:
            limit = limits.param_size_max_bytes
            raise InvalidParameter(index, f"{size} bytes, at most {limit} are allowed")


OPTIONS: Mapping[str, frozenset[str]] = {
    "consistency": frozenset(("linearizable", "stale")),
}


def check_option(statement: SetOption) -> None:
    """Raises InvalidStatement for a name or value that SET does not know."""
    allowed = OPTIONS.get(statement.name)
    if allowed is None:
        known = ", ".join(sorted(OPTIONS))
        raise InvalidStatement(f"SET {statement.name} is not known; known are {known}")
    if statement.value not in allowed:
        choices = " or ".join(sorted(allowed))
        raise InvalidStatement(f"SET {statement.name} takes {choices}")
