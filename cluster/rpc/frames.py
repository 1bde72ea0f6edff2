"""Frames of a link: u32 length of what follows, u8 kind, then by kind.

    RAFT            opaque bytes of the log
    CALL ASK OPEN   u64 id, u8 length of the method, method, payload
    REPLY           u64 id, payload            the whole answer to CALL or ASK
    PIECES          u64 id                     the answer to ASK comes as DATA
    ERROR           u64 id, fault bytes        a request failed, or a stream was aborted
    DATA            u64 id, payload            one message of a stream
    CREDIT          u64 id, u32 bytes          so much of the window is free again
    END             u64 id                     nothing more comes from here
    CLOSE           u64 id                     the handler returned: over after what was sent
    CANCEL          u64 id                     given up: a request, or a stream without error
    PING PONG       u64 of the sender, echoed

Ids of the side that dialled are odd, those of the other even; none is used twice on a link.

Keeps:
- A length is looked at before what follows it is kept: at most FRAME_BYTES_MAX.
- Bytes that are no frames raise BrokenFrame; nothing here allocates by what a number says.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

FRAME_BYTES_MAX = 16 << 20
HEAD = Struct(">IB")
HEAD_ID = Struct(">IBQ")
HEAD_METHOD = Struct(">IBQB")
HEAD_CREDIT = Struct(">IBQI")
ID = Struct(">Q")
U32 = Struct(">I")

RAFT, CALL, ASK, OPEN, REPLY, PIECES, ERROR, DATA, CREDIT, END, CLOSE, CANCEL, PING, PONG = range(
    1, 15
)

# A message has room beside the longest head; a frame of the log is a whole frame of its own.
MESSAGE_BYTES_MAX = FRAME_BYTES_MAX - 512
METHOD_BYTES_MAX = 255

Hear = Callable[[int, bytes, int, int], None]
"""(kind, bytes, where the body begins, where it ends)"""


class BrokenFrame(Exception):
    """The peer does not speak as it should; the link cannot go on."""


def raft_head(size_bytes: int) -> bytes:
    return HEAD.pack(1 + size_bytes, RAFT)


def id_head(kind: int, number: int, size_bytes: int = 0) -> bytes:
    """The beginning of a frame whose payload has `size_bytes`."""
    return HEAD_ID.pack(9 + size_bytes, kind, number)


def method_head(kind: int, number: int, method: bytes, size_bytes: int) -> bytes:
    length = len(method)
    return HEAD_METHOD.pack(10 + length + size_bytes, kind, number, length) + method


def credit_frame(number: int, size_bytes: int) -> bytes:
    return HEAD_CREDIT.pack(13, CREDIT, number, size_bytes)


def read_id(data: bytes, start: int, end: int) -> int:
    if end - start < 8:
        raise BrokenFrame("a frame is too short for its id")
    return ID.unpack_from(data, start)[0]


def read_method(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """After the id: the method, and where the payload begins."""
    at = start + 9
    if at > end or at + data[at - 1] > end:
        raise BrokenFrame("a frame is too short for its method")
    begins = at + data[at - 1]
    return data[at:begins], begins


def read_credit(data: bytes, start: int, end: int) -> int:
    if end - start != 12:
        raise BrokenFrame("a credit has 12 bytes")
    return U32.unpack_from(data, start + 8)[0]


class Splitter:
    """Cuts what arrives into frames. Holds at most one unfinished frame and one read more."""

    __slots__ = ("_needed", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0  # bytes of `_rest` before looking at it is worth while

    @property
    def held_bytes(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes, hear: Hear) -> None:
        """Call `hear` for each complete frame. Raises: BrokenFrame; what `hear` raises."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        at, size = 0, len(data)
        unpack = HEAD.unpack_from
        while size - at >= 5:
            length, kind = unpack(data, at)
            if not 1 <= length <= FRAME_BYTES_MAX:
                raise BrokenFrame(f"a frame claims {length} bytes, at most {FRAME_BYTES_MAX} go")
            end = at + 4 + length
            if end > size:
                self._needed = 4 + length
                break
            hear(kind, data, at + 5, end)
            at = end
        else:
            self._needed = 5
        if at < size:
            self._rest += data[at:] if at else data
