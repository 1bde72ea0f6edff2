"""/v1/api/auth/*: sign in, refresh, sign out, who am I, first setup.

Errors are `{"error", "message"}` with the words of `WORDS`. Keeps: login, refresh and setup are
counted by address. A header that names a token goes before a cookie; see `signed_in.py` for those.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from kalamdb.edge import faults
from kalamdb.edge.http.body import check_content_type, check_no_duplicates, read_body
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.replies import reply
from kalamdb.edge.http.signed_in import (
    ACCESS_COOKIE,
    REFRESH_COOKIE,
    Cookies,
    is_admin,
    shown,
)
from kalamdb.errors import (
    AlreadyExists,
    InvalidCredentials,
    InvalidDefinition,
    KalamError,
    MalformedRequest,
    RateLimited,
    SetupRequired,
    TokenExpired,
    UserDropped,
    WeakPassword,
)
from kalamdb.lib.rates import Buckets
from kalamdb.session.auth import (
    ROOT_PASSWORD,
    Authenticator,
    FirstUser,
    bearer_token,
    when_keys_are_there,
)

BODY_MAX_BYTES = 64 * 1024
NAME_LENGTH_MAX = 128
PASSWORD_LENGTH_MAX = 1024

# Code of the fault → word of these routes; any other code is its own word in lower case.
WORDS = {
    "AUTHENTICATION_ERROR": "unauthorized",
    "MISSING_AUTHORIZATION": "unauthorized",
    "INVALID_CREDENTIALS": "unauthorized",
    "TOKEN_EXPIRED": "unauthorized",
    "REMOTE_ACCESS_DENIED": "forbidden",
    "PERMISSION_DENIED": "forbidden",
    "RATE_LIMIT_EXCEEDED": "rate_limited",
}


class LoginBody(msgspec.Struct, forbid_unknown_fields=True):
    """`username` is another name of `user`."""

    password: str
    user: str | None = None
    username: str | None = None


class SetupBody(msgspec.Struct, forbid_unknown_fields=True):
    password: str
    root_password: str
    user: str | None = None
    username: str | None = None
    email: str | None = None


Body = TypeVar("Body", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.Response]]


class AuthEdge:
    """The handlers, by route."""

    def __init__(
        self,
        auth: Authenticator,
        cookies: Cookies,
        origins: Origins,
        attempts: Buckets | None,
    ) -> None:
        self._auth = auth
        self._cookies = cookies
        self._origins = origins
        self._attempts = attempts

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler)."""
        at = "/v1/api/auth"
        return [
            ("POST", f"{at}/login", answering(self._login)),
            ("POST", f"{at}/refresh", answering(self._refresh)),
            ("POST", f"{at}/logout", answering(self._logout)),
            ("POST", f"{at}/setup", answering(self._setup)),
            ("GET", f"{at}/me", answering(self._me)),
            ("GET", f"{at}/status", answering(self._status)),
        ]

    async def _login(self, request: web.Request) -> web.Response:
        self.attempt(request)
        body = await decoded(request, LoginBody)
        user = _named(body)
        if len(user) > NAME_LENGTH_MAX or len(body.password) > PASSWORD_LENGTH_MAX:
            raise MalformedRequest("the user name or the password is too long")
        address = self._origins.key(request)
        done = await self._auth.login(user, body.password, address)
        return self._cookies.signed_in(request, done)

    async def _refresh(self, request: web.Request) -> web.Response:
        self.attempt(request)
        token = _bearer(request)
        if token is not None:
            return self._cookies.signed_in(request, self._auth.refresh(token))
        token = self._cookies.to_change(request, REFRESH_COOKIE)
        try:
            return self._cookies.signed_in(request, self._auth.refresh(token))
        except (InvalidCredentials, TokenExpired) as error:
            response = refusal(error)
            self._cookies.clear(request, response)  # it will never be good again
            return response

    async def _logout(self, request: web.Request) -> web.Response:
        tokens = [_bearer(request)]
        if tokens == [None]:
            tokens = [
                self._cookies.to_change(request, name) for name in (ACCESS_COOKIE, REFRESH_COOKIE)
            ]
        await self._auth.logout(*tokens, address=self._origins.key(request))
        response = reply({"message": "signed out"})
        self._cookies.clear(request, response)
        return response

    async def _me(self, request: web.Request) -> web.Response:
        token = _bearer(request) or request.cookies.get(ACCESS_COOKIE)
        user = await when_keys_are_there(lambda: self._auth.me(token))
        return reply({"user": shown(user), "admin_ui_access": is_admin(user)})

    async def _status(self, request: web.Request) -> web.Response:
        self._auth.check_local("the setup status", local=self._origins.is_local(request))
        needed = self._auth.needs_setup
        message = "root has no password yet" if needed else "root has a password"
        return reply({"needs_setup": needed, "message": message})

    async def _setup(self, request: web.Request) -> web.Response:
        self._auth.check_local("setup", local=self._origins.is_local(request))
        self._cookies.check_no_stranger(request, "setup")
        self.attempt(request)
        body = await decoded(request, SetupBody)
        first = FirstUser(_named(body), body.password, body.root_password, body.email)
        user = await self._auth.setup(first, self._origins.key(request))
        return reply({"user": shown(user), "message": "setup is done; sign in"})

    def attempt(self, request: web.Request) -> None:
        """Count a sign-in by its address. Raises RateLimited."""
        if self._attempts is None:
            return
        wait_s = self._attempts.take(self._origins.key(request))
        if wait_s:
            raise RateLimited("the limit of sign-ins", math.ceil(wait_s))


def answering(handler: Handler) -> Handler:
    """The handler with errors of the tree turned into `{"error", "message"}`."""

    async def answered(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except KalamError as error:
            return refusal(error)

    return answered


def refusal(error: KalamError) -> web.Response:
    status, word = word_of(error)
    body = {"error": word, "message": faults.message_of(error)}
    after_s = faults.retry_after_s(error)
    extra = {} if after_s is None else {"Retry-After": str(after_s)}
    return reply(body, status, extra)


def word_of(error: KalamError) -> tuple[int, str]:
    """(HTTP status, word) of an error on these routes."""
    match error:
        case SetupRequired():
            return 428, "setup_required"
        case WeakPassword():
            return 400, "weak_password"
        case InvalidDefinition():
            return 400, "invalid_user"
        case UserDropped():
            return 409, "user_exists"
        case AlreadyExists(kind=kind):
            return 409, "already_configured" if kind == ROOT_PASSWORD else "user_exists"
        case _:
            fault = faults.fault_of(error)
            return fault.status, WORDS.get(fault.code, fault.code.lower())


async def decoded(request: web.Request, kind: type[Body]) -> Body:
    """The JSON body. Raises MalformedRequest, BodyTooLarge."""
    check_content_type(request)
    body = await read_body(request, BODY_MAX_BYTES)
    try:
        said = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"the body is no valid request: {error}") from error
    check_no_duplicates(body)
    return said


def _named(body: LoginBody | SetupBody) -> str:
    if (body.user is None) == (body.username is None):
        raise MalformedRequest("name the user once, as `user` or `username`")
    return body.user or body.username or ""


def _bearer(request: web.Request) -> str | None:
    header = request.headers.get("Authorization")
    return None if header is None else bearer_token(header)
