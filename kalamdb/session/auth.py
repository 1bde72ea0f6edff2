"""Who is asking: passwords and tokens in, Principals out. The only importer of jwt.

1. `authenticate` turns an Authorization header into a Principal: from the cache of good tokens,
   else by verifying signature, times, kind and user.
2. `login` checks a password, one sign-in at a time, and issues an access and a refresh token.
3. `refresh`, `me`, `logout`, `status`, `setup` are the rest of a session's life.

Keeps: a token is good only while its user has the epoch and role it was issued for, so dropping a
user, changing its role or signing out ends its tokens at once. A failed sign-in writes nothing to
the log. Unknown users and users without a password take as long as wrong passwords.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import jwt

from kalamdb.config import AuthSettings
from kalamdb.errors import (
    AccountLocked,
    AlreadyExists,
    InvalidCredentials,
    MissingAuthorization,
    RemoteAccessDenied,
    SetupRequired,
    TokenExpired,
)
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import User
from kalamdb.model.principal import Principal, Role
from kalamdb.model.work import PutUser
from kalamdb.ports import Groups
from kalamdb.session.lockout import Lockout
from kalamdb.session.passwords import Passwords
from kalamdb.session.permissions import check_user_name
from kalamdb.session.tokens import CachedToken, Claims, TokenCache, TokenKind, names, stands

ROOT = "root"
ROOT_PASSWORD = "password of root"  # the kind of AlreadyExists when setup was done before
ISSUER = "kalamdb"
ALGORITHM = "HS256"
LEEWAY_MS = 60_000
REFRESH_LIFETIMES = 7
TOKEN_LENGTH_MAX = 8192
_SCHEME = "bearer "
_CLAIMS = ("sub", "iss", "exp", "iat", "role", "token_type", "epoch")


@dataclass(frozen=True, slots=True)
class SignIn:
    """An answered login or refresh. Times are Unix milliseconds."""

    user: User
    access_token: str
    expires_ms: int
    refresh_token: str
    refresh_expires_ms: int


@dataclass(frozen=True, slots=True)
class FirstUser:
    """What setup is asked to make: a user of role dba, and root's password."""

    user: str
    password: str
    root_password: str
    email: str | None = None


class Authenticator:
    """See the module. Synchronous where it is asked for every request."""

    def __init__(
        self,
        groups: Groups,
        passwords: Passwords,
        clock: Clock,
        settings: AuthSettings,
        *,
        secret: bytes,
    ) -> None:
        self._groups = groups
        self._passwords = passwords
        self._clock = clock
        self._settings = settings
        self._secret = secret
        self._cache = TokenCache(settings.token_cache_entries)
        self._lockout = Lockout(clock, settings.lockout_failures, settings.lockout_s)
        self._setting_up = asyncio.Lock()

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────

    def authenticate(self, header: str | None) -> Principal:
        """The Principal of an `Authorization` header.

        Raises: MissingAuthorization, InvalidCredentials, TokenExpired.
        """
        if header is None:
            raise MissingAuthorization()
        found = self._cache.get(header)
        if (
            found is not None
            and found.catalog_version == self._groups.catalog.version
            and found.good_until_ms > self._clock.wall_ms()
        ):
            return found.principal
        return self._authenticate_slowly(header, found)

    def _authenticate_slowly(self, header: str, found: CachedToken | None) -> Principal:
        catalog = self._groups.catalog
        if (
            found is not None
            and stands(found.principal, catalog)
            and found.good_until_ms > self._clock.wall_ms()
        ):
            found.catalog_version = catalog.version
            return found.principal
        self._cache.drop(header)
        claims, user = self._verified(bearer_token(header), TokenKind.ACCESS)
        principal = Principal.of(user.name, user.role, user.epoch)
        self._cache.put(
            header, CachedToken(principal, claims.expires_ms + LEEWAY_MS, catalog.version)
        )
        return principal

    def stands(self, principal: Principal) -> bool:
        """May a connection of `principal` go on (user not dropped, changed or signed out)?"""
        return stands(principal, self._groups.catalog)

    def _verified(self, token: str, kind: TokenKind) -> tuple[Claims, User]:
        claims = self._decoded(token)
        if claims.kind is not kind:
            raise InvalidCredentials(f"this is no {kind.value} token")
        user = names(claims, self._groups.catalog)
        if user is None:
            raise InvalidCredentials("the token is no longer valid; sign in again")
        return claims, user

    def _decoded(self, token: str) -> Claims:
        """Signature by the pinned algorithm, then our own reading of every claim."""
        if len(token) > TOKEN_LENGTH_MAX:
            raise InvalidCredentials("the token is too long")
        try:
            # Times are compared below, on the node's own clock.
            said: dict[str, Any] = jwt.decode(  # pyright: ignore[reportUnknownMemberType]
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                options={
                    "require": list(_CLAIMS),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_aud": False,
                },
            )
        except (jwt.PyJWTError, UnicodeError) as error:
            raise InvalidCredentials("the token is not valid") from error
        return self._claims(said)

    def _claims(self, said: dict[str, Any]) -> Claims:
        subject, role, kind, epoch = said["sub"], said["role"], said["token_type"], said["epoch"]
        times = (said["exp"], said["iat"], said.get("nbf", 0))
        if not (
            isinstance(subject, str)
            and isinstance(role, str)
            and type(epoch) is int
            and kind in ("access", "refresh")
            and all(type(at) in (int, float) and math.isfinite(at) for at in times)
        ):
            raise InvalidCredentials("the token is not valid")
        expires_ms, issued_ms, begins_ms = (int(at * 1000) for at in times)
        now_ms = self._clock.wall_ms()
        if expires_ms + LEEWAY_MS <= now_ms:
            raise TokenExpired()
        if max(issued_ms, begins_ms) > now_ms + LEEWAY_MS:
            raise InvalidCredentials("the token is not valid yet")
        return Claims(subject, role, epoch, TokenKind(kind), expires_ms)

    def _signed(self, user: User, kind: TokenKind, now_s: int, expires_s: int) -> str:
        claims = {
            "sub": user.name,
            "iss": ISSUER,
            "iat": now_s,
            "exp": expires_s,
            "email": user.email,
            "role": user.role.value,
            "token_type": kind.value,
            "epoch": user.epoch,
        }
        return jwt.encode(  # pyright: ignore[reportUnknownMemberType]
            claims, self._secret, algorithm=ALGORITHM
        )

    def _issued(self, user: User) -> SignIn:
        now_s = self._clock.wall_ms() // 1000
        access_s = now_s + self._settings.token_lifetime_s
        refresh_s = now_s + self._settings.token_lifetime_s * REFRESH_LIFETIMES
        return SignIn(
            user,
            self._signed(user, TokenKind.ACCESS, now_s, access_s),
            access_s * 1000,
            self._signed(user, TokenKind.REFRESH, now_s, refresh_s),
            refresh_s * 1000,
        )

    # ── a session's life ─────────────────────────────────────────────────────────────────────────

    async def login(self, user: str, password: str) -> SignIn:
        """Raises: InvalidCredentials, AccountLocked, SetupRequired (root), Overloaded."""
        async with self._passwords.turn():
            locked_s = self._lockout.locked_s(user)
            if locked_s:
                raise AccountLocked(locked_s)
            stored = self._groups.catalog.users.get(user)
            hashed = None if stored is None else stored.password_hash
            if user == ROOT and not hashed and not password:
                raise SetupRequired()
            good = await self._passwords.verify(hashed, password)
            # The user may have been dropped or given another password while the hash was computed.
            now = self._groups.catalog.users.get(user)
            if not good or now is None or now.password_hash != hashed:
                self._lockout.failed(user)
                raise InvalidCredentials("wrong user or password")
            self._lockout.succeeded(user)
            return self._issued(now)

    def refresh(self, token: str | None) -> SignIn:
        """New tokens for a refresh token. Raises: MissingAuthorization, InvalidCredentials, …"""
        if token is None:
            raise MissingAuthorization()
        return self._issued(self._verified(token, TokenKind.REFRESH)[1])

    def me(self, token: str | None) -> User:
        """Who an access token stands for."""
        if token is None:
            raise MissingAuthorization()
        return self._verified(token, TokenKind.ACCESS)[1]

    async def logout(self, token: str | None) -> None:
        """End every token of the user this one stands for; a bad one has nothing to end."""
        if token is None:
            return
        try:
            user = self.me(token)
        except (InvalidCredentials, TokenExpired):
            return
        await self._groups.write_meta(PutUser(user.name, create=False))

    # ── the first user ───────────────────────────────────────────────────────────────────────────

    @property
    def needs_setup(self) -> bool:
        """Root has no password (or is not there yet)."""
        root = self._groups.catalog.users.get(ROOT)
        return root is None or not root.password_hash

    def check_local(self, action: str, *, local: bool) -> None:
        """Status and setup are for this machine, unless settings say otherwise."""
        if not local and not self._settings.allow_remote_setup:
            raise RemoteAccessDenied(action)

    async def setup(self, first: FirstUser) -> User:
        """Give root its password and make a user of role dba.

        Raises: AlreadyExists, InvalidDefinition (name), WeakPassword.
        """
        async with self._setting_up:
            if not self.needs_setup:
                raise AlreadyExists(ROOT_PASSWORD, "(setup was done before)")
            check_user_name(first.user)
            if first.user in self._groups.catalog.users:
                raise AlreadyExists("user", first.user)
            hashed = await self._passwords.hash(first.user, first.password)
            root_hash = await self._passwords.hash(ROOT, first.root_password)
            # Root first: a crash in between leaves a cluster that somebody can sign in to.
            await self._put_root(root_hash)
            made = PutUser(
                first.user,
                create=True,
                password_hash=hashed,
                role=Role.DBA.value,
                email=first.email,
            )
            await self._groups.write_meta(made)
        return self._groups.catalog.users[first.user]

    async def ensure_root(self, ids: Ids) -> str | None:
        """Make root at first boot; returns the password made up for it, to be printed once.

        Raises: WeakPassword for a configured one that the rules refuse.
        """
        root = self._groups.catalog.users.get(ROOT)
        if root is not None and root.password_hash:
            return None
        given = self._settings.root_password
        made_up = (
            ids.token(15).hex() if given is None and self._settings.make_root_password else None
        )
        if root is not None and given is None:
            return None
        password = given or made_up
        await self._put_root("" if password is None else await self._passwords.hash(ROOT, password))
        return made_up

    async def _put_root(self, root_hash: str) -> None:
        absent = ROOT not in self._groups.catalog.users
        await self._groups.write_meta(
            PutUser(
                ROOT,
                create=absent,
                password_hash=root_hash,
                role=Role.SYSTEM.value,
                email="root@localhost" if absent else None,
            )
        )


def bearer_token(header: str | None) -> str:
    """The token of a Bearer header. Raises MissingAuthorization, InvalidCredentials."""
    if header is None:
        raise MissingAuthorization()
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise InvalidCredentials("only Authorization: Bearer is accepted")
    return header[len(_SCHEME) :].strip()
