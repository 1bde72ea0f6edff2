"""Requests and streams of one link, both those made here and those answered here. No socket in it.

1. A request takes the next id, leaves as one frame, and waits under that id.
2. A handler is begun in the very step its frame was heard; its answer is a frame of the same id.
3. Whatever comes for an id that nobody waits for any more is dropped: answers cross cancellations.

Keeps:
- What is certainly not delivered is Unavailable; what had left when the link broke or the time ran
  out is Indeterminate.
- A caller that gives up cancels the handler; so does the end of the link. A stream's handler sees
  the error first, and is cancelled when it has not returned STREAM_GRACE_S later.
- Requests, streams and bytes under way are bounded in both directions; beyond the bounds a request
  is Overloaded, and nothing was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from cluster.rpc import frames
from cluster.rpc.faults import bug, decode_fault, encode_fault
from cluster.rpc.frames import BrokenFrame, id_head, method_head
from cluster.rpc.handlers import Handlers
from cluster.rpc.port import AskHandler, CallHandler, Peer, RpcStream, StreamHandler
from cluster.rpc.streams import Pieces, Stream, check_size
from cluster.rpc.workers import Worker, Workers
from kalamdb.errors import Indeterminate, KalamError, LimitReached, Overloaded, Unavailable

log: Any = structlog.get_logger("rpc")

REQUESTS_MAX = 4096  # made by one side of a link
REQUEST_BYTES_MAX = 64 << 20
STREAMS_MAX = 1024
# Twice as many are answered: what was given up there may take a moment to end here.
ANSWERS_MAX = 2 * (REQUESTS_MAX + STREAMS_MAX)
ANSWER_BYTES_MAX = 2 * REQUEST_BYTES_MAX
ACCEPTED_MAX = 2 * STREAMS_MAX
STREAM_GRACE_S = 1.0
STREAMS_PAUSE_BYTES = 4 << 20
REQUESTS_PAUSE_BYTES = 16 << 20
NEVER = float("inf")


class Carrier(Protocol):
    """What calls ask of their link."""

    @property
    def paused(self) -> bool:
        """Streams should wait: over STREAMS_PAUSE_BYTES are waiting to leave."""
        ...

    @property
    def full(self) -> bool:
        """Requests should not be made: over REQUESTS_PAUSE_BYTES are."""
        ...

    def write(self, head: bytes, payload: bytes = b"") -> None:
        """Queue a frame; dropped once the link is closed."""
        ...


@dataclass(frozen=True, slots=True)
class CallsStatistics:
    asked: int
    answered: int
    asking: int
    answering: int
    streams: int


class _Asked:
    """A request of ours that waits for its answer."""

    __slots__ = ("due_s", "future", "size_bytes", "timeout_s")

    def __init__(
        self, future: asyncio.Future[Any], due_s: float, timeout_s: float, size_bytes: int
    ) -> None:
        self.future = future
        self.due_s = due_s
        self.timeout_s = timeout_s
        self.size_bytes = size_bytes


class Calls:
    """See the module. `dialled`: this side did, its ids are odd."""

    def __init__(
        self, peer: Peer, carrier: Carrier, handlers: Handlers, workers: Workers, *, dialled: bool
    ) -> None:
        self._peer = peer
        self._carrier = carrier
        self._handlers = handlers
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._next = 1 if dialled else 2
        self._asked: dict[int, _Asked] = {}
        self._asked_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER
        self._streams: dict[int, Stream] = {}  # of both sides
        self._opened = 0  # streams that this side asked for
        self._accepted: set[int] = set()  # streams whose handlers run here
        self._served: dict[int, tuple[Worker, int]] = {}
        self._served_bytes = 0
        self._count_asked = self._count_answered = 0
        self._lost: str | None = None

    # ---- requests made here ------------------------------------------------------------------

    async def call(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        """See `Rpc`."""
        return await self._request(frames.CALL, method, payload, timeout_s)

    async def ask(
        self, method: str, payload: bytes, timeout_s: float
    ) -> bytes | AsyncIterator[bytes]:
        """See `Rpc`."""
        answer: bytes | Stream = await self._request(frames.ASK, method, payload, timeout_s)
        return Pieces(answer, timeout_s) if isinstance(answer, Stream) else answer

    def open(self, method: str, payload: bytes) -> RpcStream:
        """See `Rpc`."""
        check_size(payload)
        self._admit(len(payload))
        if self._opened >= STREAMS_MAX:
            raise Overloaded(f"the link to {self._peer.name}, in streams,", STREAMS_MAX)
        number = self._number()
        stream = self._add_stream(number)
        self._carrier.write(
            method_head(frames.OPEN, number, method.encode(), len(payload)), payload
        )
        return stream

    async def _request(self, kind: int, method: str, payload: bytes, timeout_s: float) -> Any:
        size = len(payload)
        check_size(payload)
        self._admit(size)
        if timeout_s <= 0:
            raise Unavailable("no time was left to ask")
        number = self._number()
        due_s = self._loop.time() + timeout_s
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked[number] = _Asked(future, due_s, timeout_s, size)
        self._asked_bytes += size
        if due_s < self._timer_at_s:
            self._set_timer(due_s)
        self._carrier.write(method_head(kind, number, method.encode(), size), payload)
        try:
            return await future
        except asyncio.CancelledError:
            if self._forget_asked(number) is not None:
                self._carrier.write(id_head(frames.CANCEL, number))
            elif not future.cancelled() and future.exception() is None:
                answer = future.result()
                if isinstance(answer, Stream):
                    answer.abort()
            raise

    def _admit(self, size_bytes: int) -> None:
        if self._lost is not None:
            raise Unavailable(self._lost)
        if self._carrier.full:
            raise Overloaded(
                f"the link to {self._peer.name}, in bytes to send,", REQUESTS_PAUSE_BYTES
            )
        if len(self._asked) >= REQUESTS_MAX:
            raise Overloaded(f"the link to {self._peer.name}, in requests,", REQUESTS_MAX)
        if self._asked_bytes + size_bytes > REQUEST_BYTES_MAX:
            raise Overloaded(
                f"the link to {self._peer.name}, in bytes of requests,", REQUEST_BYTES_MAX
            )

    def _number(self) -> int:
        number = self._next
        self._next += 2
        self._count_asked += 1
        return number

    def _forget_asked(self, number: int) -> _Asked | None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._asked_bytes -= asked.size_bytes
        return asked

    def _set_timer(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = due_s
        self._timer = None if due_s == NEVER else self._loop.call_at(due_s, self._time_out)

    def _time_out(self) -> None:
        """One timer for all requests: set for the first that is due, then for the next of them."""
        now_s = self._loop.time()
        late = [number for number, asked in self._asked.items() if asked.due_s <= now_s]
        for number in late:
            asked = self._forget_asked(number)
            assert asked is not None
            self._carrier.write(id_head(frames.CANCEL, number))
            if not asked.future.done():
                reason = f"no answer from {self._peer.name} within {asked.timeout_s:g} s"
                asked.future.set_exception(Indeterminate(reason))
        self._timer = None
        self._set_timer(min((asked.due_s for asked in self._asked.values()), default=NEVER))

    # ---- what comes --------------------------------------------------------------------------

    def receive(self, kind: int, data: bytes, start: int, end: int) -> None:
        """One frame, of a kind that has an id. Raises: BrokenFrame. No task may be running."""
        number = frames.read_id(data, start, end)
        match kind:
            case frames.REPLY:
                asked = self._forget_asked(number)
                if asked is not None and not asked.future.done():
                    asked.future.set_result(data[start + 8 : end])
            case frames.CALL | frames.ASK | frames.OPEN:
                self._begin(kind, number, data, start, end)
            case frames.DATA:
                stream = self._streams.get(number)
                if stream is not None:
                    stream.heard(data[start + 8 : end])
            case frames.CREDIT:
                size = frames.read_credit(data, start, end)
                stream = self._streams.get(number)
                if stream is not None:
                    stream.credited(size)
            case frames.PIECES:
                self._pieces(number)
            case frames.ERROR:
                self._failed(number, decode_fault(data[start + 8 : end]))
            case frames.END | frames.CLOSE:
                stream = self._streams.get(number)
                if stream is not None:
                    stream.ended(closed=kind == frames.CLOSE)
            case frames.CANCEL:
                self._cancelled(number)
            case _:
                raise BrokenFrame(f"there is no frame of kind {kind}")

    def _pieces(self, number: int) -> None:
        asked = self._forget_asked(number)
        if asked is None:
            return
        if asked.future.done():
            self._carrier.write(id_head(frames.CANCEL, number))
        else:
            asked.future.set_result(self._add_stream(number))

    def _failed(self, number: int, error: KalamError) -> None:
        asked = self._forget_asked(number)
        if asked is not None:
            if not asked.future.done():
                asked.future.set_exception(error)
        elif (stream := self._streams.get(number)) is not None:
            self._abort_heard(number, stream, error, in_turn=True)

    def _cancelled(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            self._abort_heard(number, stream, Unavailable(f"{self._peer.name} gave up the stream"))
        else:
            self._cancel_served(number)

    def _abort_heard(
        self, number: int, stream: Stream, error: KalamError, *, in_turn: bool = False
    ) -> None:
        stream.fail(error, in_turn=in_turn)
        if number in self._accepted:
            self._loop.call_later(STREAM_GRACE_S, self._cancel_served, number)
        else:
            self._cancel_served(number)

    def _cancel_served(self, number: int) -> None:
        served = self._served.get(number)
        if served is not None:
            served[0].cancel()

    # ---- requests answered here --------------------------------------------------------------

    def _begin(self, kind: int, number: int, data: bytes, start: int, end: int) -> None:
        if (number ^ self._next) & 1 == 0 or number in self._served:
            raise BrokenFrame(f"id {number} is not the peer's to take")
        method, begins = frames.read_method(data, start, end)
        refusal = self._refusal(kind, end - begins)
        if refusal is not None:
            self._write_error(number, refusal)
            return
        payload = data[begins:end]
        handlers = self._handlers
        work: Coroutine[Any, Any, None]
        match kind:
            case frames.CALL if (call := handlers.calls.get(method)) is not None:
                work = self._answer_call(number, call, payload)
            case frames.ASK if (ask := handlers.asks.get(method)) is not None:
                work = self._answer_ask(number, ask, payload)
            case frames.OPEN if (stream := handlers.streams.get(method)) is not None:
                self._accepted.add(number)
                work = self._run_stream(number, stream, payload)
            case _:
                name = method.decode(errors="replace")
                self._write_error(number, KalamError(f"this node has no method {name!r}"))
                return
        size = len(payload)
        worker = self._workers.run(work)
        if worker is not None:
            self._served[number] = worker, size
            self._served_bytes += size

    def _refusal(self, kind: int, size_bytes: int) -> KalamError | None:
        if len(self._served) >= ANSWERS_MAX:
            return Overloaded("a node, in requests of one link,", ANSWERS_MAX)
        if self._served_bytes + size_bytes > ANSWER_BYTES_MAX:
            return Overloaded("a node, in bytes of requests of one link,", ANSWER_BYTES_MAX)
        if kind == frames.OPEN and len(self._accepted) >= ACCEPTED_MAX:
            return Overloaded("a node, in streams of one link,", ACCEPTED_MAX)
        return None

    async def _answer_call(self, number: int, handler: CallHandler, payload: bytes) -> None:
        try:
            self._write_reply(number, await handler(self._peer, payload))
        except KalamError as error:
            self._write_error(number, error)
        except asyncio.CancelledError:
            self._write_error(number, Indeterminate("the request was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 — the outermost edge: a bug ends one request
            self._write_bug(number, error)
        finally:
            self._served_no_more(number)

    async def _answer_ask(self, number: int, handler: AskHandler, payload: bytes) -> None:
        try:
            answer = await handler(self._peer, payload)
            if isinstance(answer, bytes):
                self._write_reply(number, answer)
            else:
                await self._send_pieces(number, answer)
        except KalamError as error:
            self._write_error(number, error)
        except asyncio.CancelledError:
            self._write_error(number, Indeterminate("the request was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 — the outermost edge: a bug ends one request
            self._write_bug(number, error)
        finally:
            self._served_no_more(number)

    async def _send_pieces(self, number: int, pieces: AsyncIterator[bytes]) -> None:
        stream = self._add_stream(number)
        self._carrier.write(id_head(frames.PIECES, number))
        try:
            async for piece in pieces:
                await stream.send(piece)
            stream.close()
        except KalamError as error:
            stream.abort(error)
        finally:
            # After the piece that could not be sent, a generator is still suspended.
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()
            self._streams.pop(number, None)

    async def _run_stream(self, number: int, handler: StreamHandler, payload: bytes) -> None:
        stream = self._add_stream(number)
        try:
            await handler(self._peer, payload, stream)
            stream.close()
        except KalamError as error:
            stream.abort(error)
        except asyncio.CancelledError:
            stream.abort(Unavailable("the handler was cancelled"))
            raise
        except Exception as error:
            log.error("rpc_handler_failed", peer=self._peer.name, exc_info=error)
            stream.abort(bug())
        finally:
            self._accepted.discard(number)
            self._served_no_more(number)

    def _served_no_more(self, number: int) -> None:
        self._count_answered += 1
        served = self._served.pop(number, None)
        if served is not None:
            self._served_bytes -= served[1]

    def _write_reply(self, number: int, answer: bytes) -> None:
        if len(answer) > frames.MESSAGE_BYTES_MAX:
            limit = f"{len(answer)} bytes, at most {frames.MESSAGE_BYTES_MAX} are sent at once"
            self._write_error(number, LimitReached("the size of an answer between nodes", limit))
            return
        self._carrier.write(id_head(frames.REPLY, number, len(answer)), answer)

    def _write_error(self, number: int, error: KalamError) -> None:
        raw = encode_fault(error)
        self._carrier.write(id_head(frames.ERROR, number, len(raw)), raw)

    def _write_bug(self, number: int, error: Exception) -> None:
        log.error("rpc_handler_failed", peer=self._peer.name, exc_info=error)
        self._write_error(number, bug())

    # ---- streams, and the end of the link ----------------------------------------------------

    @property
    def paused(self) -> bool:
        return self._carrier.paused

    def write(self, head: bytes, payload: bytes = b"") -> None:
        self._carrier.write(head, payload)

    def forget(self, number: int) -> None:
        if self._streams.pop(number, None) is not None and self._is_ours(number):
            self._opened -= 1

    def _add_stream(self, number: int) -> Stream:
        assert number not in self._streams
        stream = self._streams[number] = Stream(number, self)
        if self._is_ours(number):
            self._opened += 1
        return stream

    def _is_ours(self, number: int) -> bool:
        return (number ^ self._next) & 1 == 0

    def unpaused(self) -> None:
        """The link has room again."""
        for stream in list(self._streams.values()):
            stream.unpaused()

    def lost(self, reason: str) -> None:
        """The link is gone. May be called twice."""
        if self._lost is not None:
            return
        self._lost = reason
        self._set_timer(NEVER)
        asked, self._asked = self._asked, {}
        for each in asked.values():
            if not each.future.done():
                each.future.set_exception(Indeterminate(reason))
        for number, stream in list(self._streams.items()):
            self._abort_heard(number, stream, Unavailable(reason))
        for number in list(self._served):
            if number not in self._accepted:
                self._cancel_served(number)

    def cancel_all(self) -> None:
        """The node stops: handlers are cancelled, those of streams too."""
        for number in list(self._served):
            self._cancel_served(number)

    def statistics(self) -> CallsStatistics:
        return CallsStatistics(
            self._count_asked,
            self._count_answered,
            len(self._asked),
            len(self._served),
            len(self._streams),
        )
