"""How two ends of a new connection prove to each other that they belong to one cluster. No socket.

    dialler   Hello   who I am, whom I want, a fresh nonce
    acceptor  Hello   who I am, a fresh nonce
    dialler   Proof   HMAC-SHA256(key, "dialler" | both hellos | channel binding)
    acceptor  Proof   HMAC-SHA256(key, "acceptor" | both hellos | channel binding)
    dialler   Ready   the link is in use

or, by either, Refusal instead. Each message is a u16 length, a u8 kind, and its body.

Keeps:
- The secret is never sent. A proof is of one connection (both nonces, the TLS session when there is
  one), of one direction, and of all that was said: cluster, roles, ids, uuids, version.
- Until the proof is good a peer makes this side hold HELD_BYTES_MAX bytes at most, and all messages
  have come within TIMEOUT_S (kept by the link).
- Both ends see both hellos before any proof, so each can say what differs. What an unproven peer
  claims is told to the log, and decides nothing but that the link is not made.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from struct import Struct
from struct import error as StructError
from uuid import UUID

from kalamdb.lib.clock import Ids

VERSION = 1
TIMEOUT_S = 5.0
HELD_BYTES_MAX = 512

_MAGIC = b"KLMD"
_LENGTH = Struct(">HB")
_BEGINNING = Struct(">4sH")
_HELLO = Struct(">4sHBII16s8s32sB")
_CLUSTER_BYTES_MAX = 63
_REASON_BYTES_MAX = 200
_TLS_RECORDS = (b"\x15", b"\x16")  # alert, handshake

MayJoin = Callable[[int, UUID], str | None]
"""A node and its uuid → why it is refused, None: it may."""

Approve = Callable[["Proven"], "Refusal | None"]
"""Asked last: is a link to this peer wanted?"""


class Role(IntEnum):
    NODE = 1
    ROUTER = 2


class Refusal(Enum):
    """Why one end does not go on, as the other one is told."""

    DIFFERS = 1  # what the hellos say; each end sees it by itself
    PROOF = 2  # the secrets differ
    MAY_NOT_JOIN = 3  # a text follows
    LINKED = 4  # there is a link between the two already
    FULL = 5


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is. `node` is None for a router; the uuid is of its data directory."""

    cluster: str
    node: int | None
    uuid: UUID

    @property
    def name(self) -> str:
        return "a router" if self.node is None else f"node {self.node}"


@dataclass(frozen=True, slots=True)
class Proven:
    """Who the peer is; `incarnation` is of its process."""

    identity: Identity
    incarnation: bytes


class Refused(Exception):
    """The link is not made. `answer` is to be sent before closing; `quiet`: nothing is wrong."""

    def __init__(self, reason: str, answer: bytes = b"", *, quiet: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer
        self.quiet = quiet


class _Kind(IntEnum):
    HELLO = 1
    PROOF = 2
    READY = 3
    REFUSAL = 4


@dataclass(frozen=True, slots=True)
class _Hello:
    identity: Identity
    wanted: int  # 0 from who was dialled
    incarnation: bytes


class Speaker:
    """What one process says of itself in all its handshakes."""

    def __init__(self, identity: Identity, secret: str, ids: Ids, may_join: MayJoin) -> None:
        assert len(identity.cluster.encode()) <= _CLUSTER_BYTES_MAX
        self.identity = identity
        self.incarnation = ids.token(8)
        self.may_join = may_join
        self._key = hmac.digest(secret.encode(), b"kalamdb link", "sha256")
        self._ids = ids

    def hello(self, wanted: int) -> bytes:
        me, cluster = self.identity, self.identity.cluster.encode()
        role = Role.ROUTER if me.node is None else Role.NODE
        nonce = self._ids.token(32)
        given = (VERSION, role, me.node or 0, wanted, me.uuid.bytes, self.incarnation, nonce)
        return _HELLO.pack(_MAGIC, *given, len(cluster)) + cluster

    def proof(self, side: bytes, transcript: bytes) -> bytes:
        return hmac.digest(self._key, side + transcript, "sha256")


class Handshake:
    """One end of one handshake. `wanted`: the node that is dialled; None: this end was dialled."""

    def __init__(
        self, speaker: Speaker, wanted: int | None, binding: bytes, approve: Approve
    ) -> None:
        self._speaker = speaker
        self._wanted = wanted
        self._binding = binding
        self._approve = approve
        self._held = b""
        self._mine = speaker.hello(wanted or 0)
        self._theirs: bytes | None = None
        self._transcript = b""
        self._claimed: Proven | None = None
        self._proven = False
        self.peer: Proven | None = None  # once the link may be used
        self.rest = b""  # frames that came behind the handshake

    @property
    def claimed(self) -> str:
        """Who the peer says it is: for logs."""
        return "somebody" if self._claimed is None else self._claimed.identity.name

    def begin(self) -> bytes:
        """What to send first."""
        return b"" if self._wanted is None else _message(_Kind.HELLO, self._mine)

    def feed(self, data: bytes) -> bytes:
        """What to send next. Raises: Refused. `peer` and `rest` are set when it is over."""
        if not self._proven and len(self._held) + len(data) > HELD_BYTES_MAX:
            raise Refused("it sends more than a handshake")
        self._held += data
        if self._held[:1] in _TLS_RECORDS and self._theirs is None:
            raise Refused("it speaks TLS, and this side has no cluster.tls_cert")
        said = b""
        while self.peer is None and len(self._held) >= _LENGTH.size:
            length, kind = _LENGTH.unpack_from(self._held)
            if not 1 <= length <= HELD_BYTES_MAX - 2:
                raise Refused("what it sends is no handshake of KalamDB")
            end = 2 + length
            if len(self._held) < end:
                break
            body, self._held = self._held[_LENGTH.size : end], self._held[end:]
            said += self._heard(kind, body)
        if self.peer is not None:
            self.rest, self._held = self._held, b""
        return said

    def _heard(self, kind: int, body: bytes) -> bytes:
        match kind:
            case _Kind.HELLO if self._theirs is None:
                return self._heard_hello(body)
            case _Kind.PROOF if self._theirs is not None and not self._proven:
                return self._heard_proof(body)
            case _Kind.READY if self._proven and not body:
                self.peer = self._claimed
                return b""
            case _Kind.REFUSAL:
                raise _refused_there(body)
            case _:
                raise Refused("what it sends is no handshake of KalamDB")

    def _heard_hello(self, body: bytes) -> bytes:
        dialled = self._wanted is None
        answer = _message(_Kind.HELLO, self._mine) if dialled else b""
        try:
            hello = _read_hello(body)
            self._claimed = Proven(hello.identity, hello.incarnation)
            self._check(hello)
        except Refused as refused:
            # The hello tells the dialler what differs; a refusal behind it, that nothing follows.
            refused.answer = answer + _refusal(Refusal.DIFFERS)
            raise
        self._theirs = body
        hellos = self._theirs + self._mine if dialled else self._mine + self._theirs
        self._transcript = hellos + self._binding
        return answer if dialled else self._proof(b"dialler")

    def _check(self, hello: _Hello) -> None:
        me, they = self._speaker.identity, hello.identity
        if they.cluster != me.cluster:
            raise Refused(f"it is of cluster {they.cluster!r}, this is {me.cluster!r}")
        if they.node is not None and they.node == me.node:
            raise Refused(f"it says that it is node {me.node}, as this one is")
        if self._wanted is None:
            if me.node is None or hello.wanted != me.node:
                raise Refused(f"it wants node {hello.wanted}, this is {me.name}")
        elif they.node != self._wanted:
            raise Refused(f"it is {they.name}, node {self._wanted} was expected there")

    def _proof(self, side: bytes) -> bytes:
        return _message(_Kind.PROOF, self._speaker.proof(side, self._transcript))

    def _heard_proof(self, body: bytes) -> bytes:
        assert self._claimed is not None
        dialled = self._wanted is None
        expected = self._speaker.proof(b"dialler" if dialled else b"acceptor", self._transcript)
        if not hmac.compare_digest(expected, body):
            raise Refused("it does not know cluster.secret of this side", _refusal(Refusal.PROOF))
        self._proven = True
        node = self._claimed.identity.node
        if node is not None:
            reason = self._speaker.may_join(node, self._claimed.identity.uuid)
            if reason is not None:
                raise Refused(reason, _refusal(Refusal.MAY_NOT_JOIN, reason))
        refusal = self._approve(self._claimed)
        if refusal is not None:
            quiet = refusal is Refusal.LINKED
            raise Refused(_REASONS[refusal], _refusal(refusal), quiet=quiet)
        if dialled:
            return self._proof(b"acceptor")
        self.peer = self._claimed
        return _message(_Kind.READY, b"")


_REASONS = {
    Refusal.DIFFERS: "it refused: what the two say of themselves differs",
    Refusal.PROOF: "it refused: cluster.secret differs",
    Refusal.MAY_NOT_JOIN: "it refused",
    Refusal.LINKED: "there is a link already",
    Refusal.FULL: "it takes no more links now",
}


def _message(kind: _Kind, body: bytes) -> bytes:
    return _LENGTH.pack(1 + len(body), kind) + body


def _refusal(refusal: Refusal, reason: str = "") -> bytes:
    return _message(_Kind.REFUSAL, bytes([refusal.value]) + reason.encode()[:_REASON_BYTES_MAX])


def _refused_there(body: bytes) -> Refused:
    try:
        refusal = Refusal(body[0])
    except (IndexError, ValueError):
        return Refused("it refused, and does not say why")
    said = body[1 : 1 + _REASON_BYTES_MAX].decode(errors="replace")
    reason = _REASONS[refusal] + (f": {said!r}" if said else "")
    return Refused(reason, quiet=refusal is Refusal.LINKED)


def _read_hello(body: bytes) -> _Hello:
    """Raises: Refused for what is none, or of another version."""
    try:
        magic, version = _BEGINNING.unpack_from(body)
    except StructError:
        magic, version = b"", 0
    if magic != _MAGIC:
        raise Refused("what it sends is no handshake of KalamDB")
    if version != VERSION:
        raise Refused(f"it speaks version {version} between nodes, this side {VERSION}")
    try:
        _, _, role, node, wanted, uuid, incarnation, _, length = _HELLO.unpack_from(body)
        cluster = body[_HELLO.size :].decode("ascii")
        known = Role(role)
    except (StructError, ValueError):
        raise Refused("what it sends is no handshake of KalamDB") from None
    if length != len(cluster) or (node == 0) != (known is Role.ROUTER):
        raise Refused("what it sends is no handshake of KalamDB")
    identity = Identity(cluster, node or None, UUID(bytes=uuid))
    return _Hello(identity, wanted, incarnation)
