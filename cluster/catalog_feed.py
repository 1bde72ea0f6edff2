"""The catalog for processes without a member of the meta group: routers.

A node tells its records (`CatalogHost`): all of them, then each change as it is applied, and at
least every `BEAT_S` how old its own knowledge is and who leads what. A router follows one node at a
time (`FollowedCatalog`), and another when that one is lost.

Keeps: the age of a followed catalog is what its node said plus the time since; when it passes
`LEASE_S` nothing is answered from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
from msgspec import DecodeError, Struct, ValidationError, msgpack

from cluster.leaders import Leaders
from cluster.remote import CATALOG_S, CatalogWatch, catch_up, check_lease
from cluster.rpc.port import Peer, Rpc, RpcStream, Service
from kalamdb.errors import KalamError, Unavailable
from kalamdb.lib.clock import Clock
from kalamdb.model import keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Effect
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.store.catalog import FIRST_CATALOG, fold
from kalamdb.store.kv import KeyReader, prefix_end

METHOD = "catalog"
LOOK_S = 0.1
BEAT_S = 0.5
AGAIN_S = 0.1
CHUNK_BYTES = 256 << 10
AGE_MAX_S = 1e6

log = structlog.get_logger(__name__)

Pairs = list[tuple[bytes, bytes | None]]


class Records(Struct, array_like=True, frozen=True, tag="r"):
    """`first`: they begin the catalog; `last`: nothing of this change or image is missing now."""

    pairs: Pairs
    first: bool
    last: bool


class Beat(Struct, array_like=True, frozen=True, tag="b"):
    age_ms: int
    leaders: dict[int, int]


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Records | Beat).decode


class CatalogHost:
    """Tells routers. `reader` is the meta group's store of this node."""

    def __init__(
        self,
        reader: KeyReader,
        leaders: Callable[[], dict[GroupId, int]],
        age_s: Callable[[], float],
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reader = reader
        self._leaders = leaders
        self._age_s = age_s
        self._pause = pause
        self._streams: dict[_Held, None] = {}

    def serve(self, service: Service) -> None:
        service.on_stream(METHOD, self._follow)

    def applied(self, records: Sequence[Effect]) -> None:
        """Records of the meta group were applied here; none: the whole catalog is another one."""
        if not records:
            for stream in list(self._streams):
                self._lost(stream)
        pairs: Pairs = [pair for pair in records if pair[0][0] == keys.Family.CATALOG]
        if not pairs:
            return
        messages = list(_chunked(pairs, first=False))
        for stream in list(self._streams):
            if not all(stream.push(message) for message in messages):
                self._lost(stream)

    def _lost(self, stream: _Held) -> None:
        self._streams.pop(stream, None)
        stream.abort(Unavailable("the catalog feed begins anew"))

    async def _follow(self, peer: Peer, payload: bytes, stream: RpcStream) -> None:
        prefix = bytes([keys.Family.CATALOG])
        pairs: Pairs = list(self._reader.scan(prefix, prefix_end(prefix)))
        messages = list(_chunked(pairs, first=True))
        # What is applied while the image is on its way waits for its end.
        queued = _Held(stream)
        self._streams[queued] = None
        try:
            for message in messages:
                await stream.send(message)
            queued.open()
            await self._beat(stream, queued)
        finally:
            self._streams.pop(queued, None)

    async def _beat(self, stream: RpcStream, held: _Held) -> None:
        told: dict[GroupId, int] | None = None
        rounds = 0
        while held in self._streams:
            leaders = self._leaders()
            if leaders != told or rounds * LOOK_S >= BEAT_S:
                told, rounds = leaders, 0
                age_ms = int(min(self._age_s(), AGE_MAX_S) * 1000)
                await stream.send(_encode(Beat(age_ms, {**leaders})))
            rounds += 1
            await self._pause(LOOK_S)


class _Held:
    """A stream whose pushes wait until the image has been sent."""

    def __init__(self, stream: RpcStream) -> None:
        self._stream = stream
        self._waiting: list[bytes] | None = []

    def open(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for message in waiting:
            if not self._stream.push(message):
                self._stream.abort(Unavailable("the catalog feed begins anew"))
                return

    def push(self, data: bytes) -> bool:
        if self._waiting is None:
            return self._stream.push(data)
        self._waiting.append(data)
        return len(self._waiting) < 1000

    def abort(self, error: KalamError) -> None:
        self._stream.abort(error)


def _chunked(pairs: Pairs, *, first: bool) -> Iterable[bytes]:
    chunk: Pairs = []
    size = 0
    begins = first
    for key, value in pairs:
        chunk.append((key, value))
        size += len(key) + len(value or b"")
        if size >= CHUNK_BYTES:
            yield _encode(Records(chunk, begins, False))
            chunk, size, begins = [], 0, False
    yield _encode(Records(chunk, begins, True))


class FollowedCatalog:
    """A router's catalog. Implements `routed.Catalog`."""

    def __init__(
        self,
        rpc: Rpc,
        leaders: Leaders,
        clock: Clock,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.catalog: CatalogView = FIRST_CATALOG
        self.on_catalog: list[Callable[[CatalogView], None]] = []
        self._rpc = rpc
        self._leaders = leaders
        self._clock = clock
        self._pause = pause
        self._heard_s: float | None = None  # when what is known was current
        self.watch = CatalogWatch(lambda: self.catalog.version)

    def age_s(self) -> float:
        if self._heard_s is None:
            return float("inf")
        return self._clock.monotonic_s() - self._heard_s

    def check_catalog(self) -> None:
        check_lease(self.age_s())

    async def catalog_reaches(self, version: int) -> None:
        await self.watch.reaches(version)

    async def refresh_catalog(self) -> None:
        async def ask(node: int) -> None:
            await catch_up(self._rpc, node, self.watch)

        await self._leaders.ask(lambda: META_GROUP, ask, twice=True, within_s=CATALOG_S)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow(self._leaders.anybody())
            except KalamError as error:
                log.info("catalog_feed_lost", reason=str(error))
            await self._pause(AGAIN_S)

    async def _follow(self, node: int) -> None:
        """What one node tells, until it is lost. Raises Unavailable."""
        stream = await self._rpc.open(node, METHOD, b"")
        building: CatalogView | None = None
        pairs: Pairs = []
        try:
            while (data := await stream.receive()) is not None:
                match _decoded(data):
                    case Records(told, first, last):
                        if first:
                            building = FIRST_CATALOG
                        pairs += told
                        if last:
                            self._show(fold(building or self.catalog, pairs))
                            building, pairs = None, []
                    case Beat(age_ms, leaders):
                        self._heard_s = self._clock.monotonic_s() - age_ms / 1000
                        for group, leader in leaders.items():
                            self._leaders.told(GroupId(group), leader)
                        if age_ms > 2000:
                            return  # another node may know more
        finally:
            stream.abort()

    def _show(self, catalog: CatalogView) -> None:
        if catalog.version < self.catalog.version:
            raise Unavailable("the node's catalog is behind what was known")
        self.catalog = catalog
        self.watch.changed()
        for tell in self.on_catalog:
            tell(catalog)


def _decoded(data: bytes) -> Records | Beat:
    try:
        return _decode(data)
    except (DecodeError, ValidationError) as error:
        raise Unavailable(f"the catalog feed sent what is no message: {error}") from error
