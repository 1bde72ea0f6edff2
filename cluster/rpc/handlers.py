"""What a node answers: handlers by method. Set before the node listens; implements `Service`."""

from __future__ import annotations

from cluster.rpc.frames import METHOD_BYTES_MAX
from cluster.rpc.port import AskHandler, CallHandler, StreamHandler


class Handlers:
    """Each method has one handler, of one kind."""

    def __init__(self) -> None:
        self.calls: dict[bytes, CallHandler] = {}
        self.asks: dict[bytes, AskHandler] = {}
        self.streams: dict[bytes, StreamHandler] = {}

    def on_call(self, method: str, handler: CallHandler) -> None:
        self.calls[self._free(method)] = handler

    def on_ask(self, method: str, handler: AskHandler) -> None:
        self.asks[self._free(method)] = handler

    def on_stream(self, method: str, handler: StreamHandler) -> None:
        self.streams[self._free(method)] = handler

    def _free(self, method: str) -> bytes:
        name = method.encode()
        assert 0 < len(name) <= METHOD_BYTES_MAX, f"{method!r} is no name of a method"
        taken = name in self.calls or name in self.asks or name in self.streams
        assert not taken, f"method {method} has a handler"
        return name
