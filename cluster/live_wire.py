"""The messages of the stream "live", which carries all live queries between an edge and a node.

Control messages are msgpack lists behind one byte; an event is its numbers and its body as
rendered, which the edge never decodes.

    0x01 msgpack list                                             a control message
    0x02 u32 number, u64 seq, u64 prev_seq, u64 after, body       an event of a feed
    0x03 u32 number, u8 last, u16 length, cursor, body            a part of a unit of a result

`number` names a subscription, a feed or a watch of this stream; each was drawn by the edge and is
used once. `after` is the cursor the feed had before: an edge that is elsewhere has lost something.

Keeps: bytes that are no message raise Unavailable, which ends the stream; nothing is allocated by
what a number says. They live as long as the stream, and have no version of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, error
from typing import Any, cast

import msgspec

from kalamdb.errors import Unavailable
from kalamdb.feed.loading import Newest, Whole
from kalamdb.feed.result import ResultCursor
from kalamdb.feed.subscription import FromNow, Resume, ResumeResult, Start
from kalamdb.model.ids import Seq, TenantId
from kalamdb.model.principal import Principal, Role

METHOD = "live"

CONTROL, EVENT, PART = range(1, 4)
EVENT_HEAD = Struct(">BIQQQ")
_PART_HEAD = Struct(">BIBH")
_CONTROL = bytes([CONTROL])


# ---- what the edge says --------------------------------------------------------------------------


class Subscribe(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """`shape` is the hash of what the edge has bound; `reset`: rows were told of it before, void
    now. `params` is a msgpack or a JSON list, told by `json`.
    """

    number: int
    sql: str
    params: bytes
    json: bool
    who: tuple[str, str, str, int]
    start: tuple[int, int, str, bool, bool, bool]
    shape: int
    reset: bool


class More(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """What the step before gave was taken in by the client."""

    number: int


class NextPage(msgspec.Struct, array_like=True, tag=3, frozen=True):
    number: int
    after: int | None


class Leave(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """Nobody here wants it. `joined`: how many joined this feed, as far as the edge knows."""

    number: int
    joined: int


class Watch(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """Say when something changes. `tables`: (id, version) of what the watcher rests on."""

    number: int
    group: int
    chains: list[bytes]
    tables: list[int]
    rests_on: list[tuple[int, int]]


Said = Subscribe | More | NextPage | Leave | Watch


# ---- what the node answers -----------------------------------------------------------------------


class Ack(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """`payload` is made for the subscription "" (`protocol.addressed`), as in the next two."""

    payload: bytes


class PageOf(msgspec.Struct, array_like=True, tag=2, frozen=True):
    payload: bytes


class At(msgspec.Struct, array_like=True, tag=3, frozen=True):
    payload: bytes


class Change(msgspec.Struct, array_like=True, tag=4, frozen=True):
    seq: int
    prev_seq: int
    body: bytes


class Step(msgspec.Struct, array_like=True, tag=11, frozen=True):
    """What one step of a subscription gave. `cursor` None: the first rows are not complete.

    `more`: it wants another; `waiting`: the client has to ask for a page. `feed`: it is live, as
    the member with the number `joined` of that feed, which stands at `cursor`.
    """

    number: int
    outputs: list[Ack | PageOf | At | Change]
    cursor: str | None
    more: bool
    waiting: bool
    feed: int = 0
    joined: int = 0


class Merged(msgspec.Struct, array_like=True, tag=12, frozen=True):
    """All members of the feed `number` are members of `feed` from here on."""

    number: int
    feed: int
    cursor: str
    joined: int


class Moved(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """The feed has passed changes that are not its own."""

    number: int
    cursor: str


class Ended(msgspec.Struct, array_like=True, tag=14, frozen=True):
    number: int
    reason: str
    detail: str
    cursor: str


class Failed(msgspec.Struct, array_like=True, tag=15, frozen=True):
    number: int
    fault: bytes


class Touched(msgspec.Struct, array_like=True, tag=16, frozen=True):
    """Something of what is watched has changed; the group stands at `seq`. The first one says that
    it is watched.
    """

    number: int
    seq: int


@dataclass(frozen=True, slots=True)
class Event:
    number: int
    seq: Seq
    prev_seq: Seq
    after: Seq
    body: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """`cursor`: where the result is at the end of the unit, in its last part."""

    number: int
    cursor: str | None
    body: bytes


Answer = Step | Merged | Moved | Ended | Failed | Touched | Event | Part

_pack = msgspec.msgpack.Encoder().encode
_said = msgspec.msgpack.Decoder(Said).decode
_answer = msgspec.msgpack.Decoder(Step | Merged | Moved | Ended | Failed | Touched).decode


def control(message: msgspec.Struct) -> bytes:
    return _CONTROL + _pack(message)


def event_message(number: int, seq: int, prev_seq: int, after: int, body: bytes) -> bytes:
    return EVENT_HEAD.pack(EVENT, number, seq, prev_seq, after) + body


def part_message(number: int, cursor: str | None, body: bytes) -> bytes:
    text = b"" if cursor is None else cursor.encode()
    return b"".join((_PART_HEAD.pack(PART, number, cursor is not None, len(text)), text, body))


def read_said(message: bytes) -> Said:
    """Raises Unavailable."""
    if message[:1] != _CONTROL:
        raise _broken("an edge sends control messages only")
    try:
        return _said(memoryview(message)[1:])
    except msgspec.MsgspecError as fault:
        raise _broken(str(fault)) from None


def read_answer(message: bytes) -> Answer:
    """Raises Unavailable."""
    try:
        match message[0] if message else 0:
            case 2:
                _, number, seq, prev_seq, after = EVENT_HEAD.unpack_from(message)
                body = message[EVENT_HEAD.size :]
                return Event(number, Seq(seq), Seq(prev_seq), Seq(after), body)
            case 3:
                _, number, last, length = _PART_HEAD.unpack_from(message)
                at = _PART_HEAD.size + length
                cursor = message[_PART_HEAD.size : at].decode() if last else None
                return Part(number, cursor, message[at:])
            case 1:
                return _answer(memoryview(message)[1:])
            case kind:
                raise _broken(f"kind {kind}")
    except (msgspec.MsgspecError, ValueError, error) as fault:
        raise _broken(str(fault)) from None


def _broken(detail: str) -> Unavailable:
    return Unavailable(f"the stream of live queries is broken: {detail}")


# ---- who asks for what ---------------------------------------------------------------------------


def who_of(principal: Principal) -> tuple[str, str, str, int]:
    return str(principal.user), principal.role.value, str(principal.actor), principal.epoch


def principal_of(who: tuple[str, str, str, int]) -> Principal:
    """Raises Unavailable."""
    user, role, actor, epoch = who
    try:
        made = Principal.of(user, Role(role), epoch)
    except ValueError:
        raise _broken(f"a role {role!r}") from None
    return Principal(made.user, made.role, TenantId(actor), made.partition, epoch)


def params_message(params: Sequence[Any]) -> tuple[bytes, bool]:
    """The bytes, and whether they are JSON: msgpack has no numbers beyond 64 bits."""
    try:
        return _pack(list(params)), False
    except OverflowError:
        return msgspec.json.encode(list(params)), True


def params_of(raw: bytes, *, json: bool) -> list[Any]:
    """Raises Unavailable."""
    try:
        found: Any = msgspec.json.decode(raw) if json else msgspec.msgpack.decode(raw)
    except msgspec.MsgspecError as fault:
        raise _broken(str(fault)) from None
    if not isinstance(found, list):
        raise _broken("parameters are a list")
    return cast("list[Any]", found)


_NOW, _WHOLE, _NEWEST, _RESUME, _RESULT = range(5)


def start_message(start: Start) -> tuple[int, int, str, bool, bool, bool]:
    match start:
        case FromNow():
            return _NOW, 0, "", False, False, False
        case Whole(rows):
            return _WHOLE, rows, "", False, False, False
        case Newest(rows):
            return _NEWEST, rows, "", False, False, False
        case Resume(cursor, rows, anew, goes_on, cut):
            return _RESUME, rows, str(cursor), anew, goes_on, cut
        case ResumeResult(cursor, rows, anew, goes_on):
            return _RESULT, rows, str(cursor), anew, goes_on, False


def start_of(message: tuple[int, int, str, bool, bool, bool]) -> Start:
    """Raises Unavailable."""
    kind, rows, cursor, anew, goes_on, cut = message
    try:
        match kind:
            case 0:
                return FromNow()
            case 1:
                return Whole(rows)
            case 2:
                return Newest(rows)
            case 3:
                return Resume(Seq(int(cursor)), rows, anew, goes_on, cut)
            case 4:
                return ResumeResult(ResultCursor.parse(cursor), rows, anew, goes_on)
            case _:
                raise _broken(f"start {kind}")
    except ValueError as fault:
        raise _broken(str(fault)) from None
