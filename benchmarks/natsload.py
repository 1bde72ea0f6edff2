"""The load generator for NATS JetStream: publish, wait for the acknowledgement of the stream.

It does a `LoadJob` like `benchmarks.load`, with a connection of its own: one message in flight on
each, an inbox for its acknowledgements. A template is a whole `PUB` with `INBOX_MARK` as the reply
subject. The plain protocol is spoken, since a client library would cost more than the server.

Invariants: an acknowledgement is checked as every answer is; an error of the server ends the run.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from benchmarks.load import ID_MARK, Connection, Draw, Run, main

INBOX_MARK = "_INBOX.bench"
"""The reply subject: the same on every connection, which NATS routes to all that subscribed; so
each connection adds its number.
"""

_ID = ID_MARK.encode()
_INBOX = INBOX_MARK.encode()
_HELLO = b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1"}\r\n'
_numbers = itertools.count(10_000)


class NatsConnection(Connection):
    """One connection to a NATS server, with at most one message in flight."""

    __slots__ = ("_ready", "inbox")

    def __init__(self, run: Run, draw: Draw) -> None:
        super().__init__(run, draw)
        self.inbox = b"%b.%d" % (_INBOX, next(_numbers))
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(_HELLO + b"SUB %b 1\r\nPING\r\n" % self.inbox)

    async def wait_ready(self) -> None:
        await self._ready

    def send(self) -> None:
        if not self.run.take():
            return
        self.open = True
        number, template = self.draw.next()
        self.digits = digits = b"%d" % number
        message = template.replace(_ID, digits).replace(_INBOX, self.inbox)
        self.sent_ns = time.perf_counter_ns()
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            line, found, rest = self.buffer.partition(b"\r\n")
            if not found:
                return
            if line.startswith(b"MSG "):
                size = int(line[line.rindex(b" ") :])
                if len(rest) < size + 2:
                    return
                self.buffer = rest[size + 2 :]
                self._acknowledged(rest[:size])
                continue
            self.buffer = rest
            if line == b"PING":
                self.transport.write(b"PONG\r\n")
            elif line == b"PONG" and not self._ready.done():
                self._ready.set_result(None)
            elif line.startswith(b"-ERR"):
                self.run.lost(f"nats-server said {line!r}")

    def _acknowledged(self, answer: bytes) -> None:
        latency_ns = time.perf_counter_ns() - self.sent_ns
        self.open = False
        run = self.run
        if not run.has_all(answer, self.digits):
            run.fault(answer)
        run.done(latency_ns)
        self.send()


if __name__ == "__main__":
    main(NatsConnection)
