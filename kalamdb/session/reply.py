"""What a request is answered with: the envelope as bytes, or a stream of them when it is large."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class BodyStream(Protocol):
    """A success envelope in pieces, for results that are not held in memory at once.

    Who gets one iterates it once, writes each piece before asking for the next, and calls `aclose`
    in any case, also after an error and when the client went away. Iteration raises the error tree;
    what was sent until then is no whole JSON document, so the connection is cut.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Give back what the stream holds (snapshots, workers). May be called twice."""
        ...


Reply = bytes | BodyStream
