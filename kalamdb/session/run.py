"""A request on its way through a session: what its statements share, and what they give.

Keeps: nothing of one client outlives its `Run`, but for what is named in the request (a request
id).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
from kalamdb.sql.statement import SetOption

REQUEST_ID_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """What an edge read. `params` are JSON values; `request_id` makes a retry exactly-once."""

    sql: str
    params: list[Any] | None = None
    namespace_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    params_max: int
    param_size_max_bytes: int
    scan: ScanLimits


@dataclass(slots=True)
class Run:
    """One request: what its statements share and change (USE, SET).

    `reads` and `writes` are where its data statements go: the newest state, a stale one, or a
    transaction.
    """

    principal: Principal
    request: SqlRequest
    namespace: str
    reads: Groups
    writes: Groups
    number: int = 0

    @property
    def user(self) -> str:
        return self.principal.user


@dataclass(frozen=True, slots=True)
class Affected:
    """What INSERT, UPDATE or DELETE without RETURNING did; summed up in a batch."""

    verb: str
    outcome: Outcome


Answer = bytes | Affected


def single(answer: Answer, as_user: str) -> bytes:
    """The result of a statement that stands alone."""
    if isinstance(answer, bytes):
        return answer
    outcome = answer.outcome
    return answers.affected(answer.verb, outcome.affected, as_user, outcome.seq)


def summaries(done: list[Affected], user: str) -> list[bytes]:
    """Totals of a batch by kind, in the order inserted, updated, deleted."""
    results: list[bytes] = []
    for verb in answers.VERBS:
        parts = [each.outcome for each in done if each.verb == verb]
        if parts:
            total = sum(outcome.affected for outcome in parts)
            results.append(answers.affected(verb, total, user, parts[-1].seq))
    return results


def tag_of(run: Run) -> RequestTag | None:
    """Names the statement for exactly-once retries; None without a request id."""
    request_id = run.request.request_id
    if request_id is None:
        return None
    check_request_id(request_id)
    digest = hashlib.blake2b(run.request.sql.encode(), digest_size=16)
    digest.update(orjson.dumps([run.namespace, run.request.params]))
    principal = run.principal
    return RequestTag(
        str(principal.user), str(principal.actor), request_id, run.number, digest.digest()
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
