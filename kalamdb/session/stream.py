"""A large result on its way to a client, read piece by piece as the client takes it.

Keeps: the server holds one piece of it. Whoever takes none for `stall_s`, or all of it slower than
`RATE_MIN_BYTES_PER_S`, loses the result: its memory goes to the next query, and the connection is
cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from kalamdb.errors import LimitReached
from kalamdb.query.held import HeldResult
from kalamdb.session import answers

PIECE_SIZE_BYTES = 128 << 10
RATE_MIN_BYTES_PER_S = 64 << 10


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """One result: the JSON before its rows, the rows held elsewhere, the JSON behind them."""

    head: bytes
    held: HeldResult
    tail: bytes

    def whole(self) -> bytes:
        """All of it at once, for an edge that does not stream."""
        try:
            return self.head + self.held.read(0, self.held.size_bytes) + self.tail
        finally:
            self.held.close()


class ResultStream:
    """Implements `reply.BodyStream` over one held result."""

    def __init__(self, answer: HeldAnswer, stall_s: float) -> None:
        self._answer = answer
        self._stall_s = stall_s
        self._stalled = False
        self._loop = loop = asyncio.get_running_loop()
        self._last_s = loop.time() + stall_s + answer.held.size_bytes / RATE_MIN_BYTES_PER_S
        self._timer = loop.call_later(stall_s, self._stall)

    def _stall(self) -> None:
        self._stalled = True
        self._answer.held.close()

    def _moved(self) -> None:
        """The client asks for more. Raises LimitReached when it is too late."""
        self._timer.cancel()
        if self._loop.time() > self._last_s:
            self._answer.held.close()
            raise LimitReached(
                "result_stall_s", f"the result was read slower than {RATE_MIN_BYTES_PER_S} bytes/s"
            )
        if self._stalled:
            raise LimitReached(
                "result_stall_s", f"nothing of the result was read for {self._stall_s:g} s"
            )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answer, loop = self._answer, self._loop
        size = answer.held.size_bytes
        at = 0
        while at < size:
            self._moved()
            piece = answer.held.read(at, PIECE_SIZE_BYTES)
            assert piece, "the result is shorter than its worker said"
            first, at = at == 0, at + len(piece)
            if at == size:
                self._answer.held.close()
                piece += answer.tail
            else:
                until_s = min(loop.time() + self._stall_s, self._last_s)
                self._timer = loop.call_at(until_s, self._stall)
            yield answer.head + piece if first else piece

    async def aclose(self) -> None:
        self._timer.cancel()
        self._answer.held.close()


def enveloped(
    results: Sequence[bytes | HeldAnswer], took_ms: float, stall_s: float
) -> bytes | ResultStream:
    """The success envelope around results; a held one stands alone."""
    first = results[0] if len(results) == 1 else None
    if isinstance(first, bytes):
        return answers.envelope((first,), took_ms)
    if isinstance(first, HeldAnswer):
        head, tail = answers.ENVELOPE_HEAD + first.head, first.tail + answers.envelope_tail(took_ms)
        return ResultStream(HeldAnswer(head, first.held, tail), stall_s)
    return answers.envelope(
        [one if isinstance(one, bytes) else one.whole() for one in results], took_ms
    )
