"""One table: error class → HTTP status, code, SQLSTATE, WebSocket code; and what a client is told.

Keeps: a client learns only of its own request. The message names what the caller sent; the failing
statement is shown to administrators alone; a bug says nothing but that there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import orjson

from kalamdb import cluster_errors, errors, transaction_errors
from kalamdb.errors import KalamError
from kalamdb.model.principal import Principal, Role


@dataclass(frozen=True, slots=True)
class Fault:
    """How an error looks outside. `websocket` is the code in an `error` message of a live query."""

    status: int
    code: str
    sqlstate: str
    websocket: str


def _input(
    code: str, sqlstate: str, websocket: str = "SUBSCRIPTION_FAILED", *, status: int = 400
) -> Fault:
    return Fault(status, code, sqlstate, websocket)


def _failed(sqlstate: str, websocket: str = "INVALID_SQL") -> Fault:
    return Fault(400, "SQL_EXECUTION_ERROR", sqlstate, websocket)


def _stranger(code: str, sqlstate: str = "28000", *, status: int = 401) -> Fault:
    return Fault(status, code, sqlstate, "AUTH_REQUIRED")


def _same(status: int, code: str, sqlstate: str) -> Fault:
    return Fault(status, code, sqlstate, code)


FAULTS: dict[type[KalamError], Fault] = {
    KalamError: _same(500, "INTERNAL_ERROR", "XX000"),
    # fix the request
    errors.InvalidInput: _input("INVALID_INPUT", "22000"),
    errors.MalformedRequest: _input("INVALID_INPUT", "08P01", "PROTOCOL"),
    errors.EmptySql: _input("EMPTY_SQL", "42601", "INVALID_SQL"),
    errors.BatchInvalid: _input("BATCH_PARSE_ERROR", "42601", "INVALID_SQL"),
    errors.SyntaxInvalid: _input("INVALID_SQL", "42601", "INVALID_SQL"),
    errors.Unsupported: _input("UNSUPPORTED", "0A000", "UNSUPPORTED"),
    errors.InvalidParameter: _input("INVALID_PARAMETER", "22023"),
    errors.ParamsWithBatch: _input("PARAMS_WITH_BATCH", "42601"),
    errors.TextTooLong: _input("INVALID_SQL", "54001", "INVALID_SQL"),
    errors.StatementTooLarge: _input("STATEMENT_TOO_LARGE", "54000", status=413),
    errors.BodyTooLarge: _input("BODY_TOO_LARGE", "54000", "MESSAGE_TOO_LARGE", status=413),
    errors.RequestIdReused: _input("REQUEST_ID_REUSED", "22023", status=422),
    errors.StatementFailed: _failed("22000"),
    errors.UnknownNamespace: _failed("3F000", "NOT_FOUND"),
    errors.UnknownTable: _failed("42P01", "NOT_FOUND"),
    errors.UnknownColumn: _failed("42703"),
    errors.UnknownUser: _failed("42704", "NOT_FOUND"),
    errors.AlreadyExists: _failed("42710"),
    errors.UserDropped: _failed("42710"),
    errors.TypeMismatch: _failed("42804"),
    errors.ValueOutOfRange: _failed("22003"),
    errors.NotNullViolation: _failed("23502"),
    errors.UniqueViolation: _failed("23505"),
    errors.IndexNotUnique: _failed("23505"),
    errors.UnknownIndex: _failed("42704"),
    errors.CheckViolation: _failed("23514"),
    errors.InvalidDefinition: _failed("42P17"),
    errors.WeakPassword: _failed("22023"),
    errors.InvalidStatement: _failed("42601"),
    errors.NamespaceNotEmpty: _failed("2BP01"),
    errors.StillNeeded: _failed("2BP01"),
    errors.QueryFailed: _failed("22000"),
    errors.DivisionByZero: _failed("22012"),
    errors.UnreadableText: _failed("22P02"),
    errors.NothingToKill: _failed("42704", "NOT_FOUND"),
    cluster_errors.UnknownNode: _failed("42704", "NOT_FOUND"),
    cluster_errors.NodeTaken: _failed("42710"),
    cluster_errors.NodeNeeded: _failed("2BP01"),
    cluster_errors.NoSuchMember: _failed("55000"),
    transaction_errors.TransactionMisused: _failed("25000"),
    transaction_errors.NotInTransaction: _failed("25001"),
    transaction_errors.TransactionReadOnly: _failed("25006"),
    transaction_errors.UnknownSavepoint: _failed("3B001"),
    transaction_errors.TransactionCrossGroup: _same(400, "TRANSACTION_CROSS_GROUP", "0A000"),
    transaction_errors.TransactionAborted: _same(409, "TRANSACTION_ABORTED", "25P02"),
    transaction_errors.TransactionTimeout: _same(409, "TRANSACTION_TIMEOUT", "25P04"),
    transaction_errors.UnknownTransaction: _same(404, "UNKNOWN_TRANSACTION", "25P01"),
    # sign in, or ask for the right
    errors.AccessDenied: _input("PERMISSION_DENIED", "42501", "UNAUTHORIZED", status=403),
    errors.PermissionDenied: _input("PERMISSION_DENIED", "42501", "UNAUTHORIZED", status=403),
    errors.Unauthenticated: _stranger("AUTHENTICATION_ERROR"),
    errors.MissingAuthorization: _stranger("MISSING_AUTHORIZATION"),
    errors.InvalidCredentials: _stranger("INVALID_CREDENTIALS", "28P01"),
    errors.TokenExpired: _stranger("TOKEN_EXPIRED"),
    errors.AccountLocked: _stranger("ACCOUNT_LOCKED"),
    errors.SetupRequired: _stranger("SETUP_REQUIRED"),
    errors.RemoteAccessDenied: _stranger("REMOTE_ACCESS_DENIED", status=403),
    # run it again, retry, or retry with the same request id
    errors.Conflict: _same(409, "CONFLICT", "40001"),
    transaction_errors.TransactionBusy: _same(409, "TRANSACTION_BUSY", "55006"),
    errors.Unavailable: _same(503, "CLUSTER_UNAVAILABLE", "57P03"),
    errors.NotLeader: _same(503, "NOT_LEADER", "57P03"),
    errors.Moved: _same(503, "CLUSTER_UNAVAILABLE", "57P03"),
    errors.ReplicaBehind: _same(503, "REPLICA_BEHIND", "57P03"),
    errors.SigningKeyPending: _same(503, "CLUSTER_UNAVAILABLE", "57P03"),
    errors.DiskFull: _same(503, "DISK_FULL", "53100"),
    errors.Overloaded: _same(503, "OVERLOADED", "53300"),
    errors.Indeterminate: _same(504, "OUTCOME_UNKNOWN", "08007"),
    errors.CursorExpired: _same(410, "CURSOR_EXPIRED", "55000"),
    # ask for less
    errors.LimitReached: _same(400, "LIMIT_REACHED", "54000"),
    errors.ResultTooLarge: _same(400, "RESULT_TOO_LARGE", "54000"),
    # No 408: HTTP clients take it for a broken connection and send the query again.
    errors.QueryTimeout: _same(400, "QUERY_TIMEOUT", "57014"),
    errors.QueryKilled: _same(400, "QUERY_KILLED", "57014"),
    errors.QueryMemoryExceeded: _same(400, "QUERY_MEMORY_EXCEEDED", "53200"),
    errors.RateLimited: _same(429, "RATE_LIMIT_EXCEEDED", "53400"),
    errors.SubscriptionLimit: _same(429, "SUBSCRIPTION_LIMIT_EXCEEDED", "53400"),
    # never outside: the session binds again; the node stops
    errors.SchemaChanged: _same(409, "CONFLICT", "40001"),
    errors.Corruption: _same(500, "INTERNAL_ERROR", "XX001"),
}

BUG = Fault(500, "INTERNAL_ERROR", "XX000", "INTERNAL_ERROR")
BUG_MESSAGE = "the server failed on this request; its log says why"

# Seconds a client had better wait, where the error itself does not say.
_RETRY_AFTER_S: dict[type[KalamError], int] = {
    errors.Overloaded: 1,
    errors.NotLeader: 1,
    errors.Moved: 1,
    errors.ReplicaBehind: 1,
    errors.Unavailable: 1,
    errors.SigningKeyPending: 1,
    errors.DiskFull: 30,
}


def fault_of(error: KalamError) -> Fault:
    """The row of the error's class; every class of the tree has one."""
    return FAULTS[type(error)]


def message_of(error: KalamError) -> str:
    """What any caller may read, with the number of the statement that failed in a batch."""
    fault = fault_of(error)
    text = BUG_MESSAGE if fault.status == 500 else str(error)
    number = error.__dict__.get("statement")
    return f"Statement {number} failed: {text}" if number else text


def retry_after_s(error: KalamError) -> int | None:
    """For the Retry-After header; whole seconds, at least 1."""
    told = error.values.get("retry_after_s")
    if told is not None:
        return max(1, math.ceil(told))
    return _RETRY_AFTER_S.get(type(error))


def envelope(
    error: KalamError, took_ms: float, principal: Principal | None, statement: str | None
) -> bytes:
    """The JSON error body of `POST /v1/api/sql`."""
    return _envelope(fault_of(error), message_of(error), took_ms, details_for(principal, statement))


def bug_envelope(took_ms: float) -> bytes:
    """The body that answers what should never have happened."""
    return _envelope(BUG, BUG_MESSAGE, took_ms, None)


def details_for(principal: Principal | None, statement: str | None) -> str | None:
    """The failing SQL, for administrators."""
    if principal is None or not principal.role.at_least(Role.DBA):
        return None
    return statement


def _envelope(fault: Fault, message: str, took_ms: float, details: str | None) -> bytes:
    described = {"code": fault.code, "message": message, "sqlstate": fault.sqlstate}
    if details is not None:
        described["details"] = details
    body: dict[str, object] = {
        "status": "error",
        "results": [],
        "took": round(took_ms, 3),
        "error": described,
    }
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        # A message that quotes half a surrogate pair the caller sent.
        described["message"] = message.encode("utf-8", "backslashreplace").decode()
        described.pop("details", None)
        return orjson.dumps(body)
