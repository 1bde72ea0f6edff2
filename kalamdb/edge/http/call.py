"""A request of the fast front, as the SQL edge asks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kalamdb.errors import MalformedRequest


@dataclass(slots=True)
class FastCall:
    """A request of this front. A `fault` is why its body never came."""

    authorization: str | None
    idempotency_key: str | None
    forwarded_for: str
    content: bytes
    origin_of: Callable[[str], str]
    fault: MalformedRequest | None = None

    async def body(self) -> bytes:
        if self.fault is not None:
            raise self.fault
        return self.content

    def origin(self) -> str:
        return self.origin_of(self.forwarded_for)
