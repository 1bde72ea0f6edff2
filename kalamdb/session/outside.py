"""Tokens of the outside issuer: whether they are good, and which user they stand for.

1. The head names algorithm and key; the key comes from `IssuerKeys`.
2. Signature and issuer, then audience and times are checked.
3. The subject is a user's name. The user was made WITH OIDC for this issuer and subject; or nobody
   has the name and `auto_provision` is on: then it is a *passing* user, of role user, of whom
   nothing is stored.

Keeps: a subject never becomes a user who signs in another way, nor one who was dropped, nor a
reserved name. Roles above user come only from a stored user. The audience is always checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from kalamdb.config import OidcSettings
from kalamdb.errors import InvalidCredentials
from kalamdb.lib.clock import Clock
from kalamdb.model.catalog import CatalogView, Identity, User
from kalamdb.model.principal import Role
from kalamdb.session import jws
from kalamdb.session.jwks import IssuerKeys
from kalamdb.session.permissions import is_subject
from kalamdb.session.tokens import LEEWAY_MS, PASSING_EPOCH, check_times

_REQUIRED = ("sub", "iss", "aud", "exp", "iat")


@dataclass(frozen=True, slots=True)
class OutsideClaims:
    """A verified token of the issuer. Times are Unix milliseconds."""

    subject: str
    email: str | None
    issued_ms: int
    expires_ms: int


class OutsideTokens:
    """See the module."""

    def __init__(self, settings: OidcSettings, keys: IssuerKeys, clock: Clock) -> None:
        audience = settings.audience or settings.client_id
        assert settings.issuer is not None
        assert audience is not None
        self.issuer = settings.issuer
        self.keys = keys
        self._audience = audience
        self._client_id = settings.client_id
        self._auto_provision = settings.auto_provision
        self._lifetime_max_ms = settings.token_lifetime_max_s * 1000
        self._clock = clock

    def verified(self, token: str, head: jws.Head) -> OutsideClaims:
        """A token used as it is. Raises: InvalidCredentials, TokenExpired, SigningKeyPending,
        Unavailable.
        """
        return self._claims(self._signed(token, head), self._audience)

    def verified_id_token(self, token: str, nonce: str | None) -> OutsideClaims:
        """An ID token the issuer gave this server for its client; `nonce` is what was sent along.

        Raises: as `verified`.
        """
        said = self._signed(token, jws.head_of(token))
        if said.get("azp", self._client_id) != self._client_id:
            raise InvalidCredentials("the ID token is of another client")
        if nonce is not None and said.get("nonce") != nonce:
            raise InvalidCredentials("the ID token is of another sign-in")
        return self._claims(said, self._client_id or self._audience)

    def _signed(self, token: str, head: jws.Head) -> dict[str, Any]:
        if head.algorithm not in jws.OUTSIDE_ALGORITHMS:
            raise InvalidCredentials("the token is not valid")
        key = self.keys.find(head).key
        return jws.verified(token, key, head.algorithm, self.issuer, _REQUIRED)

    def _claims(self, said: dict[str, Any], audience: str) -> OutsideClaims:
        subject, email = said["sub"], said.get("email")
        if not (isinstance(subject, str) and audience in _audiences(said["aud"])):
            raise InvalidCredentials("the token is not meant for this server")
        now_ms = self._clock.wall_ms()
        expires_ms, issued_ms = check_times(said, now_ms)
        if expires_ms > now_ms + self._lifetime_max_ms + LEEWAY_MS:
            raise InvalidCredentials("the token lives longer than auth.oidc.token_lifetime_max_s")
        if not is_subject(subject):
            raise InvalidCredentials("the token's subject cannot be a user name")
        shown = email if isinstance(email, str) and len(email) <= 254 else None
        return OutsideClaims(subject, shown, issued_ms, expires_ms)

    def user_of(self, claims: OutsideClaims, catalog: CatalogView) -> User:
        """Whom the token stands for now. Raises InvalidCredentials."""
        user = catalog.users.get(claims.subject)
        if user is None:
            return self.passing(claims.subject, claims.email, catalog)
        if user.identity != Identity(self.issuer, claims.subject):
            raise InvalidCredentials("the user of this name signs in another way")
        if claims.issued_ms // 1000 <= user.signed_out_ms // 1000:
            raise InvalidCredentials("the token is from before the user signed out; get a new one")
        return user

    def passing(self, name: str, email: str | None, catalog: CatalogView) -> User:
        """Who comes in without being stored. Raises InvalidCredentials."""
        if not self._auto_provision:
            raise InvalidCredentials("there is no such user here; an administrator makes it")
        if name in catalog.users or name in catalog.dropped_users:
            raise InvalidCredentials("the token is no longer valid; sign in again")
        identity = Identity(self.issuer, name)
        return User(name, Role.USER, "", email, PASSING_EPOCH, 0, 0, identity)


def _audiences(said: Any) -> list[Any]:
    return cast("list[Any]", said) if isinstance(said, list) else [said]
