"""What nodes ask each other about statements, work and the catalog: records and their bytes.

All of it is plain data. Work that holds functions (rows) never travels: the statement does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeVar, cast, get_args

import msgspec
from msgspec import Struct

from kalamdb.errors import MalformedRequest
from kalamdb.model import work as works
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, TenantId, tenant_partition
from kalamdb.model.principal import Principal, Role
from kalamdb.model.work import RequestTag, Work
from kalamdb.session.run import Affected, Done, Piece, SqlRequest

T = TypeVar("T")
SQL, PIECE, TALK, WRITE, META_VERSION = "sql", "piece", "talk", "write", "meta"
RECALL = "recall"

_encode = msgspec.msgpack.Encoder().encode


class _Who(Struct, array_like=True, frozen=True):
    user: str
    role: str
    actor: str
    epoch: int


class SqlMessage(Struct, array_like=True, frozen=True):
    """A statement for the leader. `catalog_version`: what the sender bound or looked up with, which
    the receiver must have reached. `large_params`: as JSON, where a number does not fit in 64 bits.
    """

    who: _Who
    request: SqlRequest
    catalog_version: int
    piece: Piece | None = None
    large_params: str | None = None

    @property
    def principal(self) -> Principal:
        who = self.who
        user = TenantId(who.user)
        return Principal(
            user, Role(who.role), TenantId(who.actor), tenant_partition(user), who.epoch
        )


_sql_decoder = msgspec.msgpack.Decoder(SqlMessage)


def encode_sql(
    principal: Principal, request: SqlRequest, catalog_version: int, piece: Piece | None = None
) -> bytes:
    who = _Who(principal.user, principal.role.value, principal.actor, principal.epoch)
    try:
        return _encode(SqlMessage(who, request, catalog_version, piece))
    except OverflowError:
        params, bare = json.dumps(request.params), replace(request, params=None)
        return _encode(SqlMessage(who, bare, catalog_version, piece, params))


def decode_sql(data: bytes) -> SqlMessage:
    """Raises MalformedRequest."""
    message = _decoded(_sql_decoder, data)
    if message.large_params is None:
        return message
    request = replace(message.request, params=json.loads(message.large_params))
    return msgspec.structs.replace(message, request=request, large_params=None)


# ---- work ----------------------------------------------------------------------------------------

_TRAVELS: dict[str, Any] = {
    kind.__name__: msgspec.msgpack.Decoder(kind)
    for kind in get_args(Work)
    if kind not in get_args(works.RowWork)
}


class WriteMessage(Struct, array_like=True, frozen=True):
    group: int
    kind: str
    work: msgspec.Raw
    tag: RequestTag | None


_write_decoder = msgspec.msgpack.Decoder(WriteMessage)


def encode_write(group: GroupId, work: Work, tag: RequestTag | None) -> bytes:
    kind = type(work).__name__
    assert kind in _TRAVELS, f"{kind} does not travel"
    return _encode(WriteMessage(group, kind, msgspec.Raw(_encode(work)), tag))


def decode_write(data: bytes) -> tuple[GroupId, Work, RequestTag | None]:
    """Raises MalformedRequest."""
    message = _decoded(_write_decoder, data)
    decoder = _TRAVELS.get(message.kind)
    if decoder is None:
        raise MalformedRequest(f"work of kind {message.kind[:40]!r} is not known")
    return GroupId(message.group), cast(Work, _decoded(decoder, message.work)), message.tag


class WrittenMessage(Struct, array_like=True, frozen=True):
    """`catalog_version`: of the node that wrote, afterwards."""

    outcome: Outcome
    catalog_version: int


_written_decoder = msgspec.msgpack.Decoder(WrittenMessage)


def encode_written(outcome: Outcome, catalog_version: int) -> bytes:
    return _encode(WrittenMessage(outcome, catalog_version))


def decode_written(data: bytes) -> WrittenMessage:
    return _decoded(_written_decoder, data)


_recall_decoder = msgspec.msgpack.Decoder(tuple[int, RequestTag])


def encode_recall(group: GroupId, tag: RequestTag) -> bytes:
    return _encode((group, tag))


def decode_recall(data: bytes) -> tuple[GroupId, RequestTag]:
    group, tag = _decoded(_recall_decoder, data)
    return GroupId(group), tag


# ---- pieces of a request -------------------------------------------------------------------------


class _DoneMessage(Struct, array_like=True, frozen=True):
    results: list[bytes]
    totals: list[tuple[str, Outcome]]
    catalog_version: int


_done_decoder = msgspec.msgpack.Decoder(_DoneMessage)


def encode_done(done: Done, catalog_version: int) -> bytes:
    totals = [(total.verb, total.outcome) for total in done.totals]
    return _encode(_DoneMessage(done.results, totals, catalog_version))


def decode_done(data: bytes) -> tuple[Done, int]:
    """What was done, and the catalog's version there afterwards."""
    message = _decoded(_done_decoder, data)
    totals = [Affected(verb, outcome) for verb, outcome in message.totals]
    return Done(message.results, totals), message.catalog_version


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"a node sent what is no message: {error}") from error
