"""Who is asking: passwords and tokens in, Principals out.

1. `authenticate` turns an Authorization header into a Principal: from the cache of good tokens,
   else by verifying signature, times, kind and user. Tokens of the outside issuer (`outside.py`)
   are taken as they are; when its keys have to be asked for first, SigningKeyPending is raised, and
   `when_keys_are_there` is how an edge that can wait goes on.
2. `login` checks a password, one sign-in at a time, and issues an access and a refresh token;
   `exchange` issues them for a token of the outside issuer.
3. `refresh`, `me`, `logout`, `status`, `setup` are the rest of a session's life.

Keeps: a token is good only while its user has the epoch and role it was issued for, so dropping a
user, changing its role or signing out ends its tokens at once. A failed sign-in writes nothing to
the log. Unknown users and users without a password take as long as wrong passwords.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from kalamdb.config import AuthSettings
from kalamdb.errors import (
    AccountLocked,
    AlreadyExists,
    InvalidCredentials,
    MissingAuthorization,
    PermissionDenied,
    RemoteAccessDenied,
    SetupRequired,
    SigningKeyPending,
    TokenExpired,
    UserDropped,
)
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import User
from kalamdb.model.principal import Principal, Role
from kalamdb.model.work import PutUser
from kalamdb.ports import MetaGroups
from kalamdb.session import audit, jws
from kalamdb.session.audit import Act, Audit, NoAudit
from kalamdb.session.lockout import Lockout
from kalamdb.session.outside import OutsideClaims, OutsideTokens
from kalamdb.session.passwords import Passwords
from kalamdb.session.permissions import check_user_name
from kalamdb.session.tokens import (
    LEEWAY_MS,
    PASSING_EPOCH,
    CachedToken,
    Claims,
    TokenCache,
    TokenKind,
    check_times,
    names,
    stands,
)

T = TypeVar("T")

ROOT = "root"
ROOT_PASSWORD = "password of root"  # the kind of AlreadyExists when setup was done before
ISSUER = "kalamdb"
REFRESH_LIFETIMES = 7
LOOKED_MAX = 1000
_SCHEME = "bearer "
_CLAIMS = ("sub", "iss", "exp", "iat", "role", "token_type", "epoch")
_ENDED = "the token is no longer valid; sign in again"


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


async def when_keys_are_there(ask: Callable[[], T]) -> T:
    """What `ask` gives, a second time once keys that it missed were fetched."""
    try:
        return ask()
    except SigningKeyPending as pending:
        await pending.ready()
    return ask()


class Authenticator:
    """See the module. Synchronous where it is asked for every request."""

    def __init__(
        self,
        groups: MetaGroups,
        passwords: Passwords,
        clock: Clock,
        settings: AuthSettings,
        *,
        secret: bytes,
        outside: OutsideTokens | None = None,
        log: Audit | None = None,
        follows: bool = False,
    ) -> None:
        """`follows`: the catalog is told from elsewhere, and may be behind."""
        self._follows = follows
        self._groups = groups
        self._passwords = passwords
        self._clock = clock
        self._settings = settings
        self._secret = secret
        self._outside = outside
        self._log: Audit = log or NoAudit()
        self._cache = TokenCache(settings.token_cache_entries)
        self._lockout = Lockout(clock, settings.lockout_failures, settings.lockout_s)
        self._setting_up = asyncio.Lock()
        self._looked: dict[tuple[str, int], None] = {}
        if outside is not None:
            outside.keys.on_removal(self._cache.drop_outside)

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────

    def authenticate(self, header: str | None) -> Principal:
        """The Principal of an `Authorization` header.

        Raises: MissingAuthorization, InvalidCredentials, TokenExpired, SigningKeyPending.
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
        token = bearer_token(header)
        head = jws.head_of(token)
        outside = head.algorithm != jws.OWN_ALGORITHM
        if outside:
            claims, user = self._verified_outside(token, head)
            if user.role.at_least(Role.DBA):
                self._log.count(Act(audit.LOGIN, user.name, "oidc token"))
        else:
            claims, user = self._verified(token, TokenKind.ACCESS)
        principal = Principal.of(user.name, user.role, user.epoch)
        good_until_ms = claims.expires_ms + LEEWAY_MS
        entry = CachedToken(principal, good_until_ms, catalog.version, outside)
        self._cache.put(header, entry)
        return principal

    def stands(self, principal: Principal) -> bool:
        """May a connection of `principal` go on (user not dropped, changed or signed out)?"""
        return stands(principal, self._groups.catalog)

    def _verified_outside(self, token: str, head: jws.Head) -> tuple[OutsideClaims, User]:
        if self._outside is None:
            raise InvalidCredentials("the token is not valid")
        claims = self._outside.verified(token, head)
        return claims, self._outside.user_of(claims, self._groups.catalog)

    def _verified(self, token: str, kind: TokenKind) -> tuple[Claims, User]:
        claims = self._decoded(token)
        if claims.kind is not kind:
            raise InvalidCredentials(f"this is no {kind.value} token")
        if claims.epoch == PASSING_EPOCH:
            return claims, self._passing(claims)
        user = names(claims, self._groups.catalog)
        if user is None:
            self._look_again(claims)
            raise InvalidCredentials(_ENDED)
        return claims, user

    def _look_again(self, claims: Claims) -> None:
        """The catalog may be behind the token. Raises SigningKeyPending until it was as new as the
        meta group's once for this user and epoch, so that its edge asks a second time then.
        """
        if not self._follows:
            return
        asked = claims.user, claims.epoch
        known = self._groups.catalog.users.get(claims.user)
        if (known is not None and known.epoch > claims.epoch) or asked in self._looked:
            return
        raise SigningKeyPending(ISSUER, partial(self._look, asked))

    async def _look(self, asked: tuple[str, int]) -> None:
        """A look that failed has shown nothing: Unavailable then, and the next request looks."""
        await self._groups.refresh_catalog()
        if len(self._looked) >= LOOKED_MAX:
            del self._looked[next(iter(self._looked))]
        self._looked[asked] = None

    def _passing(self, claims: Claims) -> User:
        """Who is not stored comes in as long as the issuer that vouched for it is the one asked."""
        outside = self._outside
        if outside is None or claims.issuer != outside.issuer or claims.role != Role.USER.value:
            raise InvalidCredentials(_ENDED)
        return outside.passing(claims.user, claims.email, self._groups.catalog)

    def _decoded(self, token: str) -> Claims:
        """Signature by our one algorithm, then our own reading of every claim."""
        if jws.head_of(token).algorithm != jws.OWN_ALGORITHM:
            raise InvalidCredentials("the token is not valid")
        said = jws.verified(token, self._secret, jws.OWN_ALGORITHM, ISSUER, _CLAIMS)
        return self._claims(said)

    def _claims(self, said: dict[str, Any]) -> Claims:
        subject, role, kind, epoch = said["sub"], said["role"], said["token_type"], said["epoch"]
        issuer, email = said.get("idp"), said.get("email")
        if not (
            isinstance(subject, str)
            and isinstance(role, str)
            and type(epoch) is int
            and kind in ("access", "refresh")
            and isinstance(issuer, str | None)
            and isinstance(email, str | None)
        ):
            raise InvalidCredentials("the token is not valid")
        expires_ms, _ = check_times(said, self._clock.wall_ms())
        return Claims(subject, role, epoch, TokenKind(kind), expires_ms, issuer, email)

    def _signed(self, user: User, kind: TokenKind, now_s: int, expires_s: int) -> str:
        claims: dict[str, Any] = {
            "sub": user.name,
            "iss": ISSUER,
            "iat": now_s,
            "exp": expires_s,
            "email": user.email,
            "role": user.role.value,
            "token_type": kind.value,
            "epoch": user.epoch,
        }
        if user.epoch == PASSING_EPOCH and user.identity is not None:
            claims["idp"] = user.identity.issuer
        return jws.sign(claims, self._secret)

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

    async def login(self, user: str, password: str, address: str = "") -> SignIn:
        """`address` is where the sign-in comes from, for counting failures.

        Raises: InvalidCredentials, AccountLocked, SetupRequired (root), Overloaded,
        PermissionDenied (passwords are off).
        """
        self._check_passwords_on()
        if self._follows:
            await self._groups.refresh_catalog()  # the user may be new, or have a new password
        async with self._passwords.turn():
            locked_s = self._lockout.locked_s(user, address)
            if locked_s:
                self._log.count(Act(audit.LOGIN_REFUSED, user, "locked", address))
                raise AccountLocked(locked_s)
            stored = self._groups.catalog.users.get(user)
            hashed = None if stored is None else stored.password_hash
            if user == ROOT and not hashed and not password:
                raise SetupRequired()
            good = await self._passwords.verify(hashed, password)
            # The user may have been dropped or given another password while the hash was computed.
            now = self._groups.catalog.users.get(user)
            if not good or now is None or now.password_hash != hashed:
                self._lockout.failed(user, address)
                self._log.count(Act(audit.LOGIN_REFUSED, user, "password", address))
                raise InvalidCredentials("wrong user or password")
            self._lockout.succeeded(user, address)
        return self._signed_in(now, "password", address)

    def exchange(
        self, token: str, address: str, *, is_id_token: bool, nonce: str | None = None
    ) -> SignIn:
        """Our tokens for one of the outside issuer. `is_id_token`: it was given to this server.

        Raises: InvalidCredentials, TokenExpired, SigningKeyPending, Unavailable, PermissionDenied.
        """
        outside = self._outside
        if outside is None:
            raise PermissionDenied("signing in at an outside issuer", "auth.oidc.enabled")
        if is_id_token:
            claims = outside.verified_id_token(token, nonce)
        else:
            claims = outside.verified(token, jws.head_of(token))
        try:
            user = outside.user_of(claims, self._groups.catalog)
        except InvalidCredentials:
            self._log.count(Act(audit.LOGIN_REFUSED, claims.subject, "oidc", address))
            raise
        return self._signed_in(user, "oidc", address)

    def _signed_in(self, user: User, how: str, address: str) -> SignIn:
        if user.role.at_least(Role.DBA):
            self._log.note(Act(audit.LOGIN, user.name, how, address))
        return self._issued(user)

    def _check_passwords_on(self) -> None:
        if not self._settings.local.enabled:
            raise PermissionDenied("signing in by password", "auth.local.enabled")

    def refresh(self, token: str | None) -> SignIn:
        """New tokens for a refresh token. Raises: MissingAuthorization, InvalidCredentials, …"""
        if token is None:
            raise MissingAuthorization()
        return self._issued(self._verified(token, TokenKind.REFRESH)[1])

    def me(self, token: str | None) -> User:
        """Who an access token stands for, ours or the outside issuer's."""
        if token is None:
            raise MissingAuthorization()
        head = jws.head_of(token)
        if head.algorithm != jws.OWN_ALGORITHM:
            return self._verified_outside(token, head)[1]
        return self._verified(token, TokenKind.ACCESS)[1]

    async def logout(self, *tokens: str | None, address: str = "") -> None:
        """End every token of the user the first good one stands for; bad ones end nothing.

        A user who was not stored is from now on, so that its tokens end like everybody's.
        """
        user = await self._first_good(tokens)
        if user is None:
            return
        work = PutUser(user.name, create=False, sign_out=True)
        if user.epoch == PASSING_EPOCH:
            work = PutUser(
                user.name, create=True, email=user.email, identity=user.identity, sign_out=True
            )
        try:
            await self._groups.write_meta(work)
        except (AlreadyExists, UserDropped):
            return  # it was stored or dropped meanwhile, which ended its tokens
        self._log.note(Act(audit.LOGOUT, user.name, user.name, address))

    async def _first_good(self, tokens: tuple[str | None, ...]) -> User | None:
        for token in tokens:
            if token is None:
                continue
            for ask in (self.me, self._refreshing):
                try:
                    return await when_keys_are_there(partial(ask, token))
                except (InvalidCredentials, TokenExpired):
                    continue
        return None

    def _refreshing(self, token: str | None) -> User:
        return self._verified(token or "", TokenKind.REFRESH)[1]

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

    async def setup(self, first: FirstUser, address: str = "") -> User:
        """Give root its password and make a user of role dba.

        Raises: AlreadyExists, InvalidDefinition (name), WeakPassword, UserDropped,
        PermissionDenied (passwords are off).
        """
        self._check_passwords_on()
        async with self._setting_up:
            if not self.needs_setup:
                raise AlreadyExists(ROOT_PASSWORD, "(setup was done before)")
            check_user_name(first.user)
            if first.user in self._groups.catalog.users:
                raise AlreadyExists("user", first.user)
            if first.user in self._groups.catalog.dropped_users:
                raise UserDropped(first.user)
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
            await self._log.record(Act(audit.SETUP, ROOT, first.user, address, first.user))
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
