"""What members of a group say to each other: a closed set of messages, and the frames that carry
them.

A frame is a version byte and a msgpack list of (group, message) for one peer. Each message is
decoded by type; an unknown one is dropped alone, so that a newer peer may say more. Nothing here
can run code.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

FRAME_VERSION = b"\x01"
FRAME_BYTES_MAX = 16 << 20

Number = Annotated[int, Meta(ge=0, le=2**62)]
WireEntry = tuple[Number, bytes]  # term, command; indexes follow from `prev_index`


class Append(Struct, array_like=True, frozen=True, tag="a"):
    """The leader of `term` has `entries` after (prev_index, prev_term). Without entries: a
    heartbeat.
    """

    term: Number
    round: Number  # echoed by the answer: read index
    prev_index: Number
    prev_term: Number
    commit: Number
    entries: list[WireEntry]


class Pointer(Struct, array_like=True, frozen=True, tag="s"):
    """The leader's log starts after (index, base_term), beyond what the follower needs: pull an
    image.
    """

    term: Number
    round: Number
    index: Number
    base_term: Number


class Accept(Struct, array_like=True, frozen=True, tag="r"):
    """My log equals the leader's up to `index`, on disk. `life`: of the one who answers."""

    term: Number
    round: Number
    index: Number
    life: Number = 0


class Reject(Struct, array_like=True, frozen=True, tag="n"):
    """I have no entry equal to (prev_index, …); mine may equal yours at most up to (index,
    hint_term).
    """

    term: Number
    round: Number
    prev_index: Number
    index: Number
    hint_term: Number
    life: Number = 0


class Busy(Struct, array_like=True, frozen=True, tag="b"):
    """I follow you and am installing an image."""

    term: Number
    round: Number
    life: Number = 0


class RequestVote(Struct, array_like=True, frozen=True, tag="v"):
    """`life`: of the voter I ask; another life does not answer. `asked_to`: by the leader."""

    term: Number
    last_index: Number
    last_term: Number
    life: Number = 0
    asked_to: bool = False


class GrantVote(Struct, array_like=True, frozen=True, tag="g"):
    term: Number


class AskVote(Struct, array_like=True, frozen=True, tag="p"):
    """Pre-vote: would you vote for me? Changes nothing at either side. `members`: the index of
    the entry that says who does.
    """

    ask: Number
    term: Number
    last_index: Number
    last_term: Number
    life: Number = 0
    members: Number = 0


class WouldVote(Struct, array_like=True, frozen=True, tag="w"):
    ask: Number


class Stale(Struct, array_like=True, frozen=True, tag="t"):
    """What you sent is of an older term than mine."""

    term: Number


class TakeOver(Struct, array_like=True, frozen=True, tag="x"):
    """The leader of `term` wants you to lead: campaign now."""

    term: Number


class Gone(Struct, array_like=True, frozen=True, tag="o"):
    """The committed entry at `index` does not have you among the voters; `learner`: but there."""

    index: Number
    learner: bool


class AskMembers(Struct, array_like=True, frozen=True, tag="m"):
    """To the leader of `term`: who is a member as of the entry at `index`?"""

    term: Number
    index: Number


class TellMembers(Struct, array_like=True, frozen=True, tag="k"):
    """As of the entry at `index` these are; the entry at `said` says so."""

    term: Number
    index: Number
    said: Number
    voters: tuple[Number, ...]
    learners: tuple[Number, ...]
    lives: tuple[tuple[Number, Number], ...]


Message = (
    Append
    | Pointer
    | Accept
    | Reject
    | Busy
    | RequestVote
    | GrantVote
    | AskVote
    | WouldVote
    | Stale
    | TakeOver
    | Gone
    | AskMembers
    | TellMembers
)

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(Message)
_frame_decoder = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]])


def encode_message(message: Message) -> bytes:
    return _encoder.encode(message)


def encode_frame(messages: list[tuple[int, bytes]]) -> bytes:
    """One frame of (group, encoded message) pairs."""
    return FRAME_VERSION + _encoder.encode([(gid, msgspec.Raw(data)) for gid, data in messages])


def decode_frame(frame: bytes) -> list[tuple[int, msgspec.Raw]] | None:
    """(group, encoded message) pairs; None when it is not a frame, and the peer not worth
    listening to.
    """
    if not 2 <= len(frame) <= FRAME_BYTES_MAX or frame[:1] != FRAME_VERSION:
        return None
    try:
        return _frame_decoder.decode(memoryview(frame)[1:])
    except msgspec.DecodeError:
        return None


def decode_message(data: msgspec.Raw | bytes) -> Message | None:
    """The message, or None when it is of no known type or out of bounds."""
    try:
        return _message_decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
