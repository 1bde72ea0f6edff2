"""/v1/api/auth/*: sign in, refresh, sign out, who am I, first setup.

Errors are `{"error", "message"}` with the words of `WORDS`. Keeps: login, refresh and setup are
counted by address; tokens go into HttpOnly cookies, which only these routes read.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from kalamdb.config import AuthSettings
from kalamdb.edge import faults
from kalamdb.edge.http.body import check_content_type, check_no_duplicates, read_body
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.replies import reply
from kalamdb.errors import (
    AlreadyExists,
    InvalidDefinition,
    KalamError,
    MalformedRequest,
    RateLimited,
    SetupRequired,
    WeakPassword,
)
from kalamdb.lib.rates import Buckets
from kalamdb.model.catalog import User
from kalamdb.model.principal import Role
from kalamdb.session.auth import (
    ROOT_PASSWORD,
    Authenticator,
    FirstUser,
    SignIn,
    bearer_token,
)

ACCESS_COOKIE = "kalamdb_auth"
REFRESH_COOKIE = "kalamdb_refresh"
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


Body = TypeVar("Body", LoginBody, SetupBody)
Handler = Callable[[web.Request], Awaitable[web.Response]]


class AuthEdge:
    """The handlers, by route."""

    def __init__(
        self,
        auth: Authenticator,
        settings: AuthSettings,
        origins: Origins,
        attempts: Buckets | None,
    ) -> None:
        self._auth = auth
        self._settings = settings
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
        self._attempt(request)
        body = await _decoded(request, LoginBody)
        user = _named(body)
        if len(user) > NAME_LENGTH_MAX or len(body.password) > PASSWORD_LENGTH_MAX:
            raise MalformedRequest("the user name or the password is too long")
        return self._signed_in(request, await self._auth.login(user, body.password))

    async def _refresh(self, request: web.Request) -> web.Response:
        self._attempt(request)
        token = request.cookies.get(REFRESH_COOKIE) or _bearer(request)
        return self._signed_in(request, self._auth.refresh(token))

    async def _logout(self, request: web.Request) -> web.Response:
        await self._auth.logout(_bearer(request) or request.cookies.get(ACCESS_COOKIE))
        response = reply({"message": "signed out"})
        for name in (ACCESS_COOKIE, REFRESH_COOKIE):
            response.del_cookie(name, path="/", httponly=True, samesite="Strict")
        return response

    async def _me(self, request: web.Request) -> web.Response:
        user = self._auth.me(_bearer(request) or request.cookies.get(ACCESS_COOKIE))
        return reply({"user": _shown(user), "admin_ui_access": _is_admin(user)})

    async def _status(self, request: web.Request) -> web.Response:
        self._auth.check_local("the setup status", local=self._origins.is_local(request))
        needed = self._auth.needs_setup
        message = "root has no password yet" if needed else "root has a password"
        return reply({"needs_setup": needed, "message": message})

    async def _setup(self, request: web.Request) -> web.Response:
        self._auth.check_local("setup", local=self._origins.is_local(request))
        self._attempt(request)
        body = await _decoded(request, SetupBody)
        first = FirstUser(_named(body), body.password, body.root_password, body.email)
        user = await self._auth.setup(first)
        return reply({"user": _shown(user), "message": "setup is done; sign in"})

    def _attempt(self, request: web.Request) -> None:
        if self._attempts is None:
            return
        wait_s = self._attempts.take(self._origins.key(request))
        if wait_s:
            raise RateLimited("the limit of sign-ins", math.ceil(wait_s))

    def _signed_in(self, request: web.Request, done: SignIn) -> web.Response:
        response = reply(
            {
                "user": _shown(done.user),
                "admin_ui_access": _is_admin(done.user),
                "expires_at": _rfc3339(done.expires_ms),
                "access_token": done.access_token,
                "refresh_token": done.refresh_token,
                "refresh_expires_at": _rfc3339(done.refresh_expires_ms),
            }
        )
        secure = self._settings.cookie_secure and self._origins.is_https(request)
        for name, token, expires_ms in (
            (ACCESS_COOKIE, done.access_token, done.expires_ms),
            (REFRESH_COOKIE, done.refresh_token, done.refresh_expires_ms),
        ):
            response.set_cookie(
                name,
                token,
                path="/",
                httponly=True,
                samesite="Strict",
                secure=secure,
                expires=_http_date(expires_ms),
            )
        return response


def answering(handler: Handler) -> Handler:
    """The handler with errors of the tree turned into `{"error", "message"}`."""

    async def answered(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except KalamError as error:
            status, word = word_of(error)
            body = {"error": word, "message": faults.message_of(error)}
            after_s = faults.retry_after_s(error)
            extra = {} if after_s is None else {"Retry-After": str(after_s)}
            return reply(body, status, extra)

    return answered


def word_of(error: KalamError) -> tuple[int, str]:
    """(HTTP status, word) of an error on these routes."""
    match error:
        case SetupRequired():
            return 428, "setup_required"
        case WeakPassword():
            return 400, "weak_password"
        case InvalidDefinition():
            return 400, "invalid_user"
        case AlreadyExists(kind=kind):
            return 409, "already_configured" if kind == ROOT_PASSWORD else "user_exists"
        case _:
            fault = faults.fault_of(error)
            return fault.status, WORDS.get(fault.code, fault.code.lower())


async def _decoded(request: web.Request, kind: type[Body]) -> Body:
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


def _is_admin(user: User) -> bool:
    return user.role.at_least(Role.DBA)


def _shown(user: User) -> dict[str, Any]:
    return {
        "id": user.name,
        "role": user.role.value,
        "email": user.email,
        "created_at": _rfc3339(user.created_ms),
        "updated_at": _rfc3339(user.updated_ms),
    }


def _rfc3339(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _http_date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
