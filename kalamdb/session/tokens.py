"""What a token says, and the cache of tokens found good.

Keeps: the cache is keyed by the whole header as it came, is bounded, and never answers for a token
that has expired or whose user changed since (dropped, other role, signed out): `stands` compares
the user's epoch and role again whenever the catalog has moved on. When a key of the outside issuer
is withdrawn, all its tokens are verified again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kalamdb.errors import InvalidCredentials, TokenExpired
from kalamdb.model.catalog import CatalogView, User
from kalamdb.model.principal import Principal, Role
from kalamdb.session import jws

LEEWAY_MS = 60_000
PASSING_EPOCH = 0  # of who signs in at the outside issuer and is not stored; stored users have more


def check_times(said: Mapping[str, Any], now_ms: int) -> tuple[int, int]:
    """When a token with these claims expires and was issued, in Unix ms; ours or an outside one.

    Raises: TokenExpired; InvalidCredentials for one that is not valid yet.
    """
    expires_ms, issued_ms, begins_ms = jws.times_ms(said)
    if expires_ms + LEEWAY_MS <= now_ms:
        raise TokenExpired()
    if max(issued_ms, begins_ms) > now_ms + LEEWAY_MS:
        raise InvalidCredentials("the token is not valid yet")
    return expires_ms, issued_ms


class TokenKind(Enum):
    ACCESS = "access"
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token of ours. Times are Unix milliseconds. `issuer` is the outside one that
    vouched for a user who is not stored.
    """

    user: str
    role: str
    epoch: int
    kind: TokenKind
    expires_ms: int
    issuer: str | None = None
    email: str | None = None


@dataclass(slots=True)
class CachedToken:
    """`catalog_version` is the last one the user was looked up in."""

    principal: Principal
    good_until_ms: int
    catalog_version: int
    outside: bool = False


class TokenCache:
    """Headers of good access tokens; the oldest leaves first."""

    def __init__(self, entries_max: int) -> None:
        self._entries: dict[str, CachedToken] = {}
        self._entries_max = entries_max
        self.get = self._entries.get  # bound once: this is asked for every request

    def put(self, header: str, entry: CachedToken) -> None:
        self._entries.pop(header, None)
        if len(self._entries) >= self._entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[header] = entry

    def drop(self, header: str) -> None:
        self._entries.pop(header, None)

    def drop_outside(self) -> None:
        """Forget every token of the outside issuer."""
        for header in [header for header, entry in self._entries.items() if entry.outside]:
            del self._entries[header]

    def __len__(self) -> int:
        return len(self._entries)


def names(claims: Claims, catalog: CatalogView) -> User | None:
    """The user a token stands for, as it is now; None when it was dropped or changed since."""
    user = catalog.users.get(claims.user)
    if user is None or user.epoch != claims.epoch or user.role.value != claims.role:
        return None
    return user


def stands(principal: Principal, catalog: CatalogView) -> bool:
    """Is who signed in still the same user with the same role?"""
    actor = principal.actor
    user = catalog.users.get(actor)
    if user is None:
        passing = principal.epoch == PASSING_EPOCH and principal.role is Role.USER
        return passing and actor not in catalog.dropped_users
    if user.epoch != principal.epoch:
        return False
    return user.role is principal.role or principal.user != actor
