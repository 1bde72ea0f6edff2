"""One connection of the fast front: requests in, answers out, in order, one at a time.

1. Bytes are cut into heads and bodies. The head of a plain `POST /v1/api/sql` is taken (`head.py`);
   any other one, broken or only unusual, makes the connection aiohttp's for good, with all bytes
   since that head began.
2. A request whose body is there is begun on the spot; most are answered without a task. One that
   waits, and one answered by a stream, goes on in the connection's task, and what comes meanwhile
   stays unread: at most `READ_AHEAD_BYTES` and what one read brings.
3. A client that does not take its answers is not served ahead.

Keeps: answers stand in the order of the requests. What a client can make this node hold is bounded:
one head, one body within its limit, the read-ahead, one answer. Every wait for the client ends.
"""

from __future__ import annotations

import asyncio
import math
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from kalamdb.edge.http.call import FastCall
from kalamdb.edge.http.head import END, Head, PartialHead
from kalamdb.edge.http.replies import (
    chunk_of,
    head_of_answer,
    head_of_stream,
    json_bytes,
    unreadable,
)
from kalamdb.edge.http.sql import Refusal, SqlAnswer
from kalamdb.errors import MalformedRequest
from kalamdb.lib.turn import Rest, begin
from kalamdb.session.reply import BodyStream

if TYPE_CHECKING:
    from kalamdb.edge.http.front import Front

READ_AHEAD_BYTES = 64 * 1024
WRITE_AT_ONCE_BYTES = 64 * 1024


class Wait(Enum):
    """What the client is expected to do before the connection's deadline."""

    ASK = "ask"
    SEND_HEAD = "head"
    SEND_BODY = "body"
    TAKE_ANSWER = "take"
    NOTHING = "nothing"


class FastConnection(asyncio.Protocol):
    """See the module. `front` is what all connections share."""

    __slots__ = (
        "_begun",
        "_body",
        "_closed",
        "_deadline",
        "_front",
        "_full",
        "_head",
        "_input",
        "_job",
        "_last",
        "_left_bytes",
        "_loop",
        "_out",
        "_out_bytes",
        "_parked",
        "_partial",
        "_reading",
        "_running",
        "_taken",
        "_task",
        "_timer",
        "_transport",
        "_wait",
    )

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = front.loop
        self._transport: asyncio.Transport = cast(Any, None)
        self._head: Head | None = None  # the last one; most clients repeat theirs byte by byte
        self._input = b""  # what came and is not looked at
        self._partial: PartialHead | None = None
        self._body: bytearray | None = None  # of `_head`, while it arrives
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._parked: asyncio.Future[None] | None = None
        self._job: Rest[SqlAnswer] | BodyStream | None = None
        self._begun = False  # the task has made its first step
        self._running = False  # the task has a request
        self._full = False  # the client does not take what was written
        self._taken: asyncio.Future[None] | None = None
        self._reading = True
        self._last = False  # the next answer says that the connection closes
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._wait = Wait.ASK
        self._deadline = math.inf
        self._left_bytes = 0

    # ---- the transport --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._front.add(self):
            self._closed = True
            transport.close()
            return
        self._expect(Wait.ASK)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._closed = True
        if self._taken is not None and not self._taken.done():
            self._taken.set_exception(ConnectionResetError("the client went away"))
            self._taken.exception()  # nobody may be waiting
        self._end_task()
        if self._task is None or self._task.done():
            self._front.discard(self)
        else:
            self._task.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._front.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._input:
            data = self._input + data
            self._input = b""
        if self._running or self._full:
            self._hold(data)
        else:
            self._serve(data)

    def pause_writing(self) -> None:
        self._full = True
        if not self._closed:
            self._left_bytes = self._transport.get_write_buffer_size()
            self._expect(Wait.TAKE_ANSWER)

    def resume_writing(self) -> None:
        self._full = False
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        if not self._closed:
            self._expect(Wait.NOTHING if self._running else Wait.ASK)
            self._loop.call_soon(self._go_on)

    def origin(self, forwarded_for: str) -> str:
        """The client's address, for counting."""
        peer: Any = self._transport.get_extra_info("peername")
        address = str(peer[0]) if peer else None  # (host, port, …); nothing once it is closed
        return self._front.origins.key_of(address, forwarded_for)

    # ---- requests -------------------------------------------------------------------------------

    def _serve(self, data: bytes) -> None:
        """Answer the requests that are whole in `data`, which begins one; keep what is left."""
        at = 0
        if self._body is not None:
            at = self._take_body(data)
        size = len(data)
        head = self._head
        while at < size and not (self._running or self._full or self._closed):
            end = data.find(END, at) + len(END)
            if end < len(END):
                self._head_in_part(data[at:] if at else data)
                return
            raw = data[at:end]
            if head is None or raw != head.raw:
                head = self._head = self._front.heads.read(raw)
                if head is None:
                    self._hand_over(data[at:] if at else data)
                    return
            at = end + head.length
            if at > size:
                self._body_in_part(head, data, end)
                return
            self._partial = None
            self._answer(head, data[end:at])
        if at < size and not self._closed:
            self._hold(data[at:])
        self._flush()

    def _take_body(self, data: bytes) -> int:
        """Put what belongs to the body there, answer when it is whole; returns its end."""
        head, body = self._head, self._body
        assert head is not None
        assert body is not None
        missing = head.length - len(body)
        if len(data) < missing:
            body += data
            return len(data)
        body += data[:missing]
        self._body = None
        self._answer(head, bytes(body))
        return missing

    def _body_in_part(self, head: Head, data: bytes, end: int) -> None:
        """Who is unknown, or would be refused anyway, is not listened to."""
        self._flush()
        self._partial = None
        if self._closed or self._full:
            self._hold(data[end - len(head.raw) :])
        elif not self._front.edge.knows(head.authorization):
            self._hand_over(data[end - len(head.raw) :])
        else:
            self._body = bytearray(data[end:])
            self._expect(Wait.SEND_BODY)

    def _head_in_part(self, data: bytes) -> None:
        self._flush()
        if self._closed:
            return
        if self._partial is None:
            self._partial = PartialHead()
            self._expect(Wait.SEND_HEAD)
        if len(data) > self._front.heads.head_max_bytes or self._partial.hopeless(data):
            self._hand_over(data)
        else:
            self._input = data

    def _hand_over(self, data: bytes) -> None:
        """From here on the connection is aiohttp's, beginning with the head that `data` begins."""
        self._flush()
        if self._closed or self._full:
            self._hold(data)
            return
        self._leave()
        self._closed = True
        self._end_task()
        self._front.hand_over(self, self._transport, data)

    def _hold(self, data: bytes) -> None:
        """Keep what cannot be served now."""
        self._input = data
        if len(data) > READ_AHEAD_BYTES and self._reading and not self._closed:
            self._reading = False
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Serve what was held."""
        if self._closed or self._running or self._full:
            return
        data, self._input = self._input, b""
        if data:
            self._serve(data)
        if not (self._reading or self._closed) and len(self._input) <= READ_AHEAD_BYTES:
            self._reading = True
            self._transport.resume_reading()

    # ---- answers --------------------------------------------------------------------------------

    def _answer(self, head: Head, body: bytes, fault: MalformedRequest | None = None) -> None:
        """Run one request: its answer is written, or its task has it."""
        task = self._task
        if task is None:
            task = self._task = self._loop.create_task(self._work())
        call = FastCall(
            head.authorization, head.idempotency_key, head.forwarded_for, body, self.origin, fault
        )
        try:
            answer = begin(self._front.edge.answer(call), task, self._loop)
        except (ConnectionError, asyncio.CancelledError):
            self._close()
            return
        if isinstance(answer, bytes | Refusal):
            self._answered(answer)
            return
        self._flush()
        self._running = True
        self._job = answer
        self._wait = Wait.NOTHING
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _answered(self, answer: bytes | Refusal) -> None:
        # The next request is waited for; the timer that runs finds the new deadline. Writing may
        # change that, so it comes after.
        self._wait = Wait.ASK
        self._deadline = self._loop.time() + self._front.keepalive_s
        if isinstance(answer, Refusal):
            self._write(json_bytes(answer.status, answer.body, answer.headers, self._added()))
        elif len(answer) <= WRITE_AT_ONCE_BYTES:
            self._write(head_of_answer(len(answer), self._added()) + answer)
        else:
            self._write(head_of_answer(len(answer), self._added()))
            self._write(answer)
        if self._last:
            self._close()

    def _added(self) -> bytes:
        """Header lines of this connection and its request."""
        head = self._head
        origin = None if head is None else head.origin
        added = self._front.cors_lines(origin) if origin is not None else b""
        return added + b"Connection: close\r\n" if self._last else added

    def _write(self, data: bytes) -> None:
        """Written together with the answers before it, when there is no more to answer."""
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > WRITE_AT_ONCE_BYTES:
            self._flush()

    def _flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            self._out_bytes = 0
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _close(self) -> None:
        """Say what there is to say, then hang up."""
        if self._closed:
            return
        self._flush()
        self._leave()
        self._closed = True
        self._transport.close()
        self._left_bytes = self._transport.get_write_buffer_size()
        if self._left_bytes:
            self._expect(Wait.TAKE_ANSWER)

    # ---- the task -------------------------------------------------------------------------------

    async def _work(self) -> None:
        """What could not be answered on the spot, one job after another."""
        self._begun = True
        try:
            while True:
                await self._finish(await self._next_job())
        except BaseException:
            self._close()  # also when a job was cancelled from elsewhere: nothing answers here
            raise

    async def _next_job(self) -> Rest[SqlAnswer] | BodyStream:
        cancelled: asyncio.CancelledError | None = None
        if self._job is None:
            self._parked = self._loop.create_future()
            try:
                await self._parked
            except asyncio.CancelledError as error:
                if self._job is None:
                    raise
                cancelled = error
        job, self._job, self._parked = self._job, None, None
        assert job is not None
        if cancelled is not None:
            if not isinstance(job, Rest):
                await self._front.edge.close_stream(job)
                raise cancelled
            job.cancelled = cancelled
        return job

    async def _finish(self, job: Rest[SqlAnswer] | BodyStream) -> None:
        try:
            answer = await job if isinstance(job, Rest) else job
            if self._closed:
                if not isinstance(answer, bytes | Refusal):
                    await self._front.edge.close_stream(answer)
                return
            if isinstance(answer, bytes | Refusal):
                self._answered(answer)
                self._flush()
            else:
                await self._send(answer)
        except ConnectionError:
            self._close()
        self._running = False
        if self._closed:
            return
        if self._last:
            self._close()
        elif not self._full:
            self._wait = Wait.ASK
            self._deadline = self._loop.time() + self._front.keepalive_s
            if self._input or not self._reading:
                self._loop.call_soon(self._go_on)

    async def _send(self, stream: BodyStream) -> None:
        """A stream's pieces as chunks, each taken by the client before the next is made."""
        try:
            self._transport.write(head_of_stream(self._added()))
            async for piece in stream:
                if self._full:
                    self._taken = self._loop.create_future()
                    await self._taken
                if self._closed:
                    raise ConnectionResetError("the client went away")
                if piece:
                    self._transport.write(chunk_of(piece))
            self._transport.write(b"0\r\n\r\n")
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 — the outermost edge, too late for a status
            self._front.edge.stream_broke(error)
            self.abort()
        finally:
            await self._front.edge.close_stream(stream)

    def _end_task(self) -> None:
        """Cancel the task, when it has begun: what it runs nobody waits for."""
        if self._task is not None:
            if self._begun:
                self._task.cancel()
            else:
                self._loop.call_soon(self._task.cancel)

    # ---- deadlines and the end ------------------------------------------------------------------

    def _expect(self, wait: Wait) -> None:
        front = self._front
        self._wait = wait
        match wait:
            case Wait.ASK:
                left_s = front.keepalive_s
            case Wait.SEND_HEAD:
                left_s = front.header_timeout_s
            case Wait.SEND_BODY | Wait.TAKE_ANSWER:
                left_s = front.body_timeout_s
            case Wait.NOTHING:
                left_s = math.inf
        self._deadline = self._loop.time() + left_s
        if left_s < math.inf:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        """The timer: is the client late?"""
        self._timer = None
        if self._running and not self._full:
            self._deadline = self._loop.time() + self._front.keepalive_s
            self._arm()
        elif self._loop.time() < self._deadline:
            self._arm()
        else:
            self._late()

    def _late(self) -> None:
        front = self._front
        match self._wait:
            case Wait.SEND_HEAD:
                told = f"its head did not arrive within {front.header_timeout_s:g} s"
                self._write(unreadable(told))
                self._close()
            case Wait.SEND_BODY:
                assert self._head is not None
                self._body = None
                self._last = True
                told = f"the body did not arrive within {front.body_timeout_s:g} s"
                self._answer(self._head, b"", MalformedRequest(told))
            case Wait.TAKE_ANSWER:
                left_bytes = self._transport.get_write_buffer_size()
                if left_bytes >= self._left_bytes:
                    self.abort()
                else:
                    self._left_bytes = left_bytes
                    self._expect(Wait.TAKE_ANSWER)
            case Wait.ASK | Wait.NOTHING:
                self._close()

    def end_soon(self) -> None:
        """The node stops: the request at work is the last one, without one this is the end."""
        if self._closed:
            return
        if self._running or self._body is not None:
            self._last = True
        else:
            self._close()

    def abort(self) -> None:
        """Hang up at once, whatever is not sent."""
        self._leave()
        self._closed = True
        self._transport.abort()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
