"""Every error KalamDB raises on purpose. A class answers one question: what should the caller do?

    KalamError
    ├─ InvalidInput        fix the request; nothing was done
    │   ├─ MalformedRequest · EmptySql · BatchInvalid · SyntaxInvalid · Unsupported
    │   ├─ InvalidParameter · ParamsWithBatch · TextTooLong · StatementTooLarge · BodyTooLarge
    │   ├─ RequestIdReused
    │   └─ StatementFailed: UnknownNamespace · UnknownTable · UnknownColumn · UnknownUser
    │        · UserDropped · AlreadyExists · TypeMismatch · ValueOutOfRange
    │        · NotNullViolation · UniqueViolation
    │        · CheckViolation · InvalidDefinition · InvalidStatement · NamespaceNotEmpty
    │        · StillNeeded · QueryFailed (DivisionByZero · UnreadableText) · NothingToKill;
    │        those of `transaction_errors` and `cluster_errors`
    ├─ AccessDenied        sign in, or ask for the right
    │   ├─ PermissionDenied
    │   └─ Unauthenticated: MissingAuthorization · InvalidCredentials · TokenExpired
    │        · AccountLocked · SetupRequired · RemoteAccessDenied
    ├─ Conflict            another write came between; run the statement again
    ├─ Unavailable         surely not done; retry later
    │   └─ NotLeader · Moved · ReplicaBehind · DiskFull · Overloaded · SigningKeyPending
    ├─ Indeterminate       may be done; retry with the same request id
    ├─ CursorExpired       take a fresh snapshot
    ├─ LimitReached        ask for less
    │   └─ ResultTooLarge · QueryTimeout · QueryKilled · QueryMemoryExceeded · RateLimited
    │        · SubscriptionLimit
    ├─ SchemaChanged       bind again against the newer definition (never leaves the server)
    └─ Corruption          the node stops; names the file and the offset

Bugs are AssertionError. Fields, not prose: `__str__` builds the message; nobody reads it in code.
How each class looks on HTTP, WebSocket and PostgreSQL is one table, `edge/faults.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class KalamError(Exception):
    """Base of the tree. Subclasses list their fields in `fields` and their text in `text`
    (str.format).
    """

    fields: ClassVar[tuple[str, ...]] = ("detail",)
    text: ClassVar[str] = "{detail}"

    def __init__(self, *values: Any, **named: Any) -> None:
        if len(values) > len(self.fields):
            raise TypeError(f"{type(self).__name__} takes at most {len(self.fields)} fields")
        given = dict(zip(self.fields, values, strict=False)) | named
        for name in given:
            if name not in self.fields:
                raise TypeError(f"{type(self).__name__} has no field {name}")
        self.values: dict[str, Any] = {name: given.get(name) for name in self.fields}
        super().__init__(*self.values.values())

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return self.text.format(**self.values)


class InvalidInput(KalamError):
    """The request is wrong; nothing was done."""


class MalformedRequest(InvalidInput):
    """The body is no valid request: JSON, encoding, content type, unknown or missing fields."""


class EmptySql(InvalidInput):
    fields = ()
    text = "the request holds no statement"


class BatchInvalid(InvalidInput):
    """The text cannot be split into statements (an open quote or comment)."""


class SyntaxInvalid(InvalidInput):
    fields = ("detail", "line", "column")

    def __str__(self) -> str:
        where = f" at line {self.line}, column {self.column}" if self.line else ""
        return f"syntax error{where}: {self.detail}"


class Unsupported(InvalidInput):
    """A construct KalamDB does not have. `hint` says what to do instead."""

    fields = ("construct", "hint")

    def __str__(self) -> str:
        return f"not supported: {self.construct}" + (f"; {self.hint}" if self.hint else "")


class InvalidParameter(InvalidInput):
    fields = ("index", "detail")

    def __str__(self) -> str:
        return (
            f"parameter ${self.index}: {self.detail}"
            if self.index
            else f"parameters: {self.detail}"
        )


class ParamsWithBatch(InvalidInput):
    fields = ()
    text = "parameters need a request with exactly one statement; send the statements one by one"


class TextTooLong(InvalidInput):
    fields = ("size_bytes", "max_bytes")
    text = "the SQL text has {size_bytes} bytes, at most {max_bytes} are allowed; send parameters"


class StatementTooLarge(InvalidInput):
    """What a statement writes does not fit; nothing was done."""

    fields = ("size_bytes", "max_bytes")
    text = "the statement writes {size_bytes} bytes, at most {max_bytes} are allowed; split it"


class BodyTooLarge(InvalidInput):
    fields = ("size_bytes", "max_bytes")
    text = "the request body has {size_bytes} bytes, at most {max_bytes} are allowed"


class RequestIdReused(InvalidInput):
    fields = ("request_id",)
    text = (
        "request id {request_id} was used for another statement; use a new id for a new statement"
    )


class StatementFailed(InvalidInput):
    """The statement was understood and cannot be carried out; nothing was done."""


class UnknownNamespace(StatementFailed):
    fields = ("namespace",)
    text = "namespace {namespace} does not exist"


class UnknownTable(StatementFailed):
    """`kind`: "view" where the statement asked for one."""

    fields = ("table", "kind")

    def __str__(self) -> str:
        return f"{self.kind or 'table'} {self.table} does not exist"


class UnknownColumn(StatementFailed):
    fields = ("column", "table")

    def __str__(self) -> str:
        return f"column {self.column} does not exist" + (f" in {self.table}" if self.table else "")


class UnknownIndex(StatementFailed):
    """`table` is None where only a namespace was named."""

    fields = ("index", "table")

    def __str__(self) -> str:
        return f"index {self.index} does not exist" + (f" on {self.table}" if self.table else "")


class UnknownUser(StatementFailed):
    fields = ("user",)
    text = "user {user} does not exist"


class AlreadyExists(StatementFailed):
    fields = ("kind", "name")
    text = "{kind} {name} already exists"


class UserDropped(StatementFailed):
    """The name is kept: rows of the user who had it are still stored under it."""

    fields = ("user",)
    text = (
        "user {user} was dropped, and rows of that time are kept under the name; choose another"
        " name, or add REUSE DATA to CREATE USER to hand them to the new user"
    )


class TypeMismatch(StatementFailed):
    """A value has no place in its column: `column`, the `expected` SQL type, what is wrong."""

    fields = ("column", "expected", "detail")

    def __str__(self) -> str:
        where = f"column {self.column}: " if self.column else ""
        return f"{where}expected {self.expected}: {self.detail}"


class ValueOutOfRange(StatementFailed):
    fields = ("column", "expected", "detail")

    def __str__(self) -> str:
        where = f"column {self.column}: " if self.column else ""
        return f"{where}value out of range for {self.expected}: {self.detail}"


class NotNullViolation(StatementFailed):
    fields = ("column", "table")
    text = "column {column} of {table} must not be NULL"


class UniqueViolation(StatementFailed):
    """A primary key or UNIQUE value is taken. `value` is the caller's own."""

    fields = ("table", "columns", "value")

    def __str__(self) -> str:
        columns = ", ".join(self.columns)
        return f"duplicate key in {self.table}: ({columns}) = ({self.value}) already exists"


class IndexNotUnique(StatementFailed):
    """CREATE UNIQUE INDEX met rows with equal values. Whose they are and what they hold is not
    said: they may be anybody's.
    """

    fields = ("table", "index")
    text = "index {index} was not created: rows of {table} have equal values in its columns"


class CheckViolation(StatementFailed):
    fields = ("table", "check")
    text = "row violates check {check} of {table}"


class InvalidDefinition(StatementFailed):
    """A CREATE or ALTER that describes something impossible."""


class WeakPassword(StatementFailed):
    """A new password that the rules refuse; `complaint` says why, never what it was."""

    fields = ("complaint",)
    text = "the password {complaint}; choose another"


class InvalidStatement(StatementFailed):
    """A statement that parses and makes no sense: no WHERE, an assigned primary key, EXECUTE AS
    misuse.
    """


class NamespaceNotEmpty(StatementFailed):
    fields = ("namespace", "holds")
    text = "namespace {namespace} holds {holds}; drop them first or add CASCADE"


class StillNeeded(StatementFailed):
    """What is to be dropped or renamed is named by something else, which is left as it is."""

    fields = ("what", "by")
    text = "{what} is used by {by}; drop that first, or add CASCADE to DROP"


class QueryFailed(StatementFailed):
    """The query engine refused or failed the SELECT (a function's argument, a planning error)."""


class DivisionByZero(QueryFailed):
    """Of whole numbers and DECIMALs; a DOUBLE becomes infinite, which no result holds."""

    fields = ()
    text = "division by zero"


class UnreadableText(QueryFailed):
    """A text was cast to a type that it is no value of. `detail` quotes it."""


class NothingToKill(StatementFailed):
    """There is nothing of that id, or it is somebody else's."""

    fields = ("kind", "id")
    text = "there is no {kind} {id}; it may have ended"


class AccessDenied(KalamError):
    """Who asks may not."""


class PermissionDenied(AccessDenied):
    fields = ("action", "needs")

    def __str__(self) -> str:
        return f"{self.action} is not permitted" + (
            f"; it needs {self.needs}" if self.needs else ""
        )


class Unauthenticated(AccessDenied):
    """Who asks is not known."""


class MissingAuthorization(Unauthenticated):
    fields = ()
    text = "send an Authorization: Bearer header; POST /v1/api/auth/login gives a token"


class InvalidCredentials(Unauthenticated):
    fields = ("detail",)

    def __str__(self) -> str:
        return self.detail or "invalid credentials"


class TokenExpired(Unauthenticated):
    fields = ()
    text = "the token has expired; refresh it or sign in again"


class AccountLocked(Unauthenticated):
    fields = ("retry_after_s",)

    def __str__(self) -> str:
        minutes = -(-self.retry_after_s // 60)
        plural = "" if minutes == 1 else "s"
        return f"too many failed sign-ins; try again in {minutes} minute{plural}"


class SetupRequired(Unauthenticated):
    fields = ()
    text = "root has no password yet; POST /v1/api/auth/setup from this machine"


class RemoteAccessDenied(Unauthenticated):
    fields = ("action",)
    text = "{action} is allowed from this machine only"


class Conflict(KalamError):
    fields = ("detail",)

    def __str__(self) -> str:
        return (
            f"another write came between{': ' + self.detail if self.detail else ''}; run it again"
        )


class Unavailable(KalamError):
    """Surely not done. Retry, later or elsewhere."""

    fields = ("reason",)
    text = "unavailable: {reason}; nothing was done, retry"


class NotLeader(Unavailable):
    fields = ("group", "leader")

    def __str__(self) -> str:
        return (
            f"group {self.group} is led by {self.leader or 'nobody yet'}; nothing was done, retry"
        )


class ReplicaBehind(Unavailable):
    """A stale read that has to see `cursor` came to a replica that has not applied it yet."""

    fields = ("cursor", "waited_s")
    text = (
        "this replica has not applied {cursor} after {waited_s} s; nothing was done: retry, or"
        " read with consistency linearizable"
    )


class Moved(Unavailable):
    """The slot is not open in the group that was asked; `group` has it, or will, if that is known.

    Whoever routes asks there, as with NotLeader; a client sees it only when its time is over.
    """

    fields = ("slot", "epoch", "group")

    def __str__(self) -> str:
        where = "elsewhere" if self.group is None else f"with group {self.group}"
        return f"slot {self.slot} is {where} (epoch {self.epoch}); nothing was done, retry"


class SigningKeyPending(Unavailable):
    """The keys of an outside issuer have to be asked for first. `ready` is a function that waits
    until they were: an edge awaits it once and authenticates again.
    """

    fields = ("issuer", "ready")
    text = "the signing keys of {issuer} are being fetched; nothing was done, retry"


class DiskFull(Unavailable):
    fields = ("free_bytes", "min_free_bytes")
    text = (
        "the data disk has {free_bytes} bytes free, writes need {min_free_bytes}; "
        "reads go on; free space and writes go on too"
    )


class Overloaded(Unavailable):
    fields = ("queue", "limit")
    text = "{queue} holds its limit of {limit}; nothing was done, retry after a moment"


class Indeterminate(KalamError):
    """May be done or not. Only a retry with the same request id is safe."""

    fields = ("reason",)
    text = "outcome unknown: {reason}; retry with the same request id to learn it"


class CursorExpired(KalamError):
    """The changes after `cursor` cannot be replayed; `reason` is expired, ahead or foreign."""

    fields = ("cursor", "reason")
    text = "cursor {cursor} cannot be resumed ({reason}); take a fresh snapshot"


class LimitReached(KalamError):
    """A stated limit was met; ask for less."""

    fields = ("limit", "detail")
    text = "{limit} reached: {detail}"


class ResultTooLarge(LimitReached):
    fields = ("limit", "max")
    text = "the result exceeds {limit} = {max}; add LIMIT or narrow the WHERE"


class QueryTimeout(LimitReached):
    fields = ("timeout_s",)
    text = "the query ran longer than {timeout_s} s and was stopped"


class QueryKilled(LimitReached):
    """Somebody ended it with KILL; it wrote nothing."""

    fields = ("query_id",)
    text = "the query {query_id} was stopped by KILL; nothing was done"


class QueryMemoryExceeded(LimitReached):
    fields = ("max_bytes",)
    text = "the query needed more than {max_bytes} bytes of memory and was stopped"


class RateLimited(LimitReached):
    fields = ("limit", "retry_after_s")
    text = "{limit} reached; retry after {retry_after_s} s"


class SubscriptionLimit(LimitReached):
    fields = ("limit", "max")
    text = "{limit} reached: at most {max} subscriptions"


class SchemaChanged(KalamError):
    """The table's definition moved on between binding and deciding; bind again with `definition`,
    which the catalog may not show yet. Never leaves the server.
    """

    fields = ("table", "version", "definition")
    text = "table {table} is now at schema version {version}"


class Corruption(KalamError):
    """Bytes on disk are not what was written. The node must not go on."""

    fields = ("path", "offset", "detail")
    text = "corruption in {path} at offset {offset}: {detail}"
