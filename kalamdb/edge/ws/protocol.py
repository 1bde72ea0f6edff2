"""The messages of a live connection ↔ data. No socket in it.

Client messages are closed structs told apart by `type`; fields nobody knows are left alone, so that
older servers take newer clients. Server messages are functions that give the payload as JSON. A
payload that has `seq` says: everything of this subscription up to here has been sent; it is the
cursor to resume from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from kalamdb.errors import Unsupported
from kalamdb.feed.loading import Newest, Page, Whole
from kalamdb.feed.result import ResultCursor
from kalamdb.feed.result_subscription import ResultSubscription
from kalamdb.feed.subscription import FromNow, Resume, ResumeResult, Start
from kalamdb.model.ids import SEQ_MAX, Seq
from kalamdb.model.principal import Principal
from kalamdb.model.types import ColumnType
from kalamdb.sql.bound import LivePlan

SUBSCRIPTION_ID_MAX = 256

# Codes of errors that are no class of the tree; those of the tree stand in edge.faults.
AUTH_REQUIRED = "AUTH_REQUIRED"
BATCH_FETCH_FAILED = "BATCH_FETCH_FAILED"
INVALID_SUBSCRIPTION_ID = "INVALID_SUBSCRIPTION_ID"
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
PROTOCOL = "PROTOCOL"
RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
SLOW_CONSUMER = "SLOW_CONSUMER"
SUBSCRIPTION_LIMIT_EXCEEDED = "SUBSCRIPTION_LIMIT_EXCEEDED"
UNSUPPORTED_DATA = "UNSUPPORTED_DATA"


class NotJson(ValueError):
    """The frame is no JSON text; the connection is closed."""


class BadMessage(ValueError):
    """JSON, but no message this protocol has; the connection stays."""


class WishedProtocol(msgspec.Struct, frozen=True):
    serialization: str = "json"
    compression: str = "gzip"


class Authenticate(msgspec.Struct, frozen=True, tag="authenticate"):
    method: str = "jwt"
    token: str = ""
    protocol: WishedProtocol | None = None


class Options(msgspec.Struct, frozen=True):
    batch_size: int | None = None
    last_rows: int | None = None
    from_: int | str | None = msgspec.field(name="from", default=None)
    from_seq_id: int | str | None = None
    on_expired: str | None = None


class Wish(msgspec.Struct, frozen=True):
    """What a subscribe message asks for."""

    id: str
    sql: str
    options: Options | None = None
    params: list[Any] | None = None


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    subscription: Wish


class NextBatch(msgspec.Struct, frozen=True, tag="next_batch"):
    subscription_id: str
    last_seq_id: int | str | None = None


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe"):
    subscription_id: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    pass


class Query(msgspec.Struct, frozen=True, tag="query"):
    """SQL to run; the fields are those of an HTTP request."""

    id: str
    sql: str
    params: list[Any] | None = None
    namespace_id: str | None = None
    request_id: str | None = None
    transaction_id: str | None = None
    consistency: str | None = None
    min_cursor: str | int | None = None


ClientMessage = Authenticate | Subscribe | NextBatch | Unsubscribe | Ping | Query

_decode = msgspec.json.Decoder(ClientMessage).decode
_decode_packed = msgspec.msgpack.Decoder(ClientMessage).decode


@dataclass(frozen=True, slots=True)
class SpokenProtocol:
    """What is really used: msgpack if asked for, else JSON; gzip unless refused."""

    packed: bool
    msgpack: bool = False

    @property
    def fields(self) -> dict[str, str]:
        return {
            "serialization": "msgpack" if self.msgpack else "json",
            "compression": "gzip" if self.packed else "none",
        }


# ---- client messages ----------------------------------------------------------------------------


def client_message(payload: bytes) -> ClientMessage:
    """Raises NotJson, BadMessage."""
    try:
        if not payload.isascii():
            payload.decode()  # the decoder does not look at text it skips
        return _decode(payload)
    except msgspec.ValidationError as fault:
        raise BadMessage(str(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise NotJson(str(fault)) from None


def packed_message(payload: bytes) -> ClientMessage:
    """The same as msgpack. Raises NotJson, BadMessage."""
    try:
        return _decode_packed(payload)
    except msgspec.ValidationError as fault:
        raise BadMessage(str(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise NotJson(str(fault)) from None


def any_cursor(value: int | str | None, name: str) -> Seq | ResultCursor | None:
    """A cursor as clients send it: a seq, or the text of a result's. Raises BadMessage."""
    if isinstance(value, str) and not value.isdigit():
        try:
            return ResultCursor.parse(value)
        except ValueError:
            raise BadMessage(
                f"{name} is no cursor: a decimal number up to {SEQ_MAX} is, or what `seq` said"
            ) from None
    return cursor(value, name)


def cursor(value: int | str | None, name: str) -> Seq | None:
    """A seq as clients send it: a number or a decimal string. Raises BadMessage."""
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 19):
            raise BadMessage(f"{name} is not a seq: a decimal number up to {SEQ_MAX} is")
        value = int(value)
    if value is not None and not 0 <= value <= SEQ_MAX:
        raise BadMessage(f"{name} is not a seq: a decimal number up to {SEQ_MAX} is")
    return None if value is None else Seq(value)


def start(options: Options | None, rows_default: int, rows_max: int) -> Start:
    """Where a subscription begins. Raises BadMessage, Unsupported."""
    if options is None:
        return FromNow()
    batch_rows = rows_default if options.batch_size is None else options.batch_size
    if not 1 <= batch_rows <= rows_max:
        raise Unsupported(f"batch_size {batch_rows}", f"it may be 1 to {rows_max}")
    if options.on_expired not in (None, "error", "snapshot"):
        raise BadMessage('on_expired is "error" or "snapshot"')
    since = any_cursor(options.from_, "from")
    if since is None:
        since = any_cursor(options.from_seq_id, "from_seq_id")
    anew = options.on_expired == "snapshot"
    match since:
        case ResultCursor():
            return ResumeResult(since, batch_rows, anew)
        case int():
            return Resume(since, batch_rows, anew)
        case None:
            pass
    if options.last_rows is None:
        return Whole(batch_rows)
    if options.last_rows < 0:
        raise BadMessage("last_rows is negative")
    if options.last_rows > batch_rows:
        raise Unsupported(
            f"last_rows {options.last_rows} above batch_size {batch_rows}",
            f"raise batch_size, up to {rows_max}",
        )
    return Newest(options.last_rows)


# ---- server messages ----------------------------------------------------------------------------


def auth_success(principal: Principal, spoken: SpokenProtocol) -> bytes:
    return orjson.dumps(
        {
            "type": "auth_success",
            "user": principal.user,
            "user_id": principal.user,
            "role": principal.role.value,
            "protocol": spoken.fields,
        }
    )


def pong() -> bytes:
    return b'{"type":"pong"}'


def auth_error(message: str) -> bytes:
    return orjson.dumps({"type": "auth_error", "message": message})


def error(
    subscription_id: str,
    code: str,
    message: str,
    *,
    seq: Seq | str | None = None,
    reason: str | None = None,
    cursors: Mapping[str, Seq | str] | None = None,
) -> bytes:
    """`seq`: where the ended subscription stands; `cursors`: where all of a connection do."""
    fields: dict[str, Any] = {
        "type": "error",
        "subscription_id": subscription_id,
        "code": code,
        "message": message,
    }
    if reason is not None:
        fields["reason"] = reason
    if seq is not None:
        fields["seq"] = str(seq)
    if cursors is not None:
        fields["cursors"] = {name: str(at) for name, at in cursors.items()}
    return orjson.dumps(fields)


def subscription_ack(subscription_id: str, plan: LivePlan, page: Page, *, reset: bool) -> bytes:
    return _ack(subscription_id, _schema(plan), page, reset=reset)


def result_ack(subscription_id: str, live: ResultSubscription, page: Page, *, reset: bool) -> bytes:
    """Of a query that is evaluated anew: says what tells rows apart, and whether they have an
    order.
    """
    schema = [
        _described(column.name, column.type, index, column.flags)
        for index, column in enumerate(live.columns)
    ]
    evaluated = {"ordered": live.ordered, "key": live.key}
    return _ack(subscription_id, schema, page, reset=reset, evaluated=evaluated)


def _ack(
    subscription_id: str,
    schema: list[dict[str, Any]],
    page: Page,
    *,
    reset: bool,
    evaluated: dict[str, Any] | None = None,
) -> bytes:
    fields: dict[str, Any] = {
        "type": "subscription_ack",
        "subscription_id": subscription_id,
        "total_rows": 0,
        "batch_control": _control(page),
        "schema": schema,
    }
    if evaluated is not None:
        fields["evaluated"] = evaluated
    if reset:
        fields["reset"] = True
    if page.seq is not None:
        fields["seq"] = str(page.seq)
    return orjson.dumps(fields)


def initial_data_batch(subscription_id: str, rows: tuple[bytes, ...], page: Page) -> bytes:
    """`rows` are JSON objects already."""
    return b"".join(
        (
            b'{"type":"initial_data_batch","subscription_id":',
            orjson.dumps(subscription_id),
            b',"rows":[',
            b",".join(rows),
            b'],"batch_control":',
            orjson.dumps(_control(page)),
            b"}" if page.seq is None else b',"seq":"%b"}' % str(page.seq).encode(),
        )
    )


_NOBODY = b'"subscription_id":""'


def addressed(payload: bytes, subscription_id: str) -> bytes:
    """A message that was made for the subscription "", for another."""
    head, found, rest = payload.partition(_NOBODY)
    assert found, "a message names its subscription"
    return b"".join((head, b'"subscription_id":', orjson.dumps(subscription_id), rest))


def position(subscription_id: str, seq: Seq | str) -> bytes:
    return orjson.dumps({"type": "position", "subscription_id": subscription_id, "seq": str(seq)})


def _control(page: Page) -> dict[str, Any]:
    return {
        "batch_num": page.number,
        "has_more": page.has_more,
        "status": page.status,
        "last_seq_id": None if page.last_row is None else str(page.last_row),
    }


def _schema(plan: LivePlan) -> list[dict[str, Any]]:
    table = plan.table
    unique = {rule.columns[0] for rule in table.ready_uniques if len(rule.columns) == 1}
    if len(table.primary_key) == 1:
        unique.add(table.primary_key[0])
    schema: list[dict[str, Any]] = []
    for index, column in enumerate(plan.columns):
        key = column.id in table.primary_key
        flags = (("pk", key), ("nn", key or not column.nullable), ("uq", column.id in unique))
        shown = [flag for flag, stands in flags if stands]
        schema.append(_described(column.name, column.type, index, shown))
    return schema


def _described(
    name: str, column_type: ColumnType, index: int, flags: Sequence[str]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "data_type": column_type.label, "index": index}
    if flags:
        entry["flags"] = list(flags)
    return entry
