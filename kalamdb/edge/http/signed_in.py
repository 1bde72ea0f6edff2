"""What a sign-in answers: tokens in the body and in cookies; and who may use the cookies again.

Keeps: cookies are HttpOnly and SameSite=Strict, and only routes of /v1/api/auth read them. A route
that changes something takes them only from a page of this very origin (or one named in
`http.cors_origins`) and with a JSON content type, which a form of another page cannot send.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from kalamdb.config import AuthSettings
from kalamdb.edge.http.cors import Cors
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.replies import reply
from kalamdb.errors import MalformedRequest, PermissionDenied
from kalamdb.model.catalog import User
from kalamdb.model.principal import Role
from kalamdb.session.auth import SignIn

ACCESS_COOKIE = "kalamdb_auth"
REFRESH_COOKIE = "kalamdb_refresh"


class Cookies:
    """Sets, reads and clears the two cookies."""

    def __init__(self, settings: AuthSettings, origins: Origins, cors: Cors) -> None:
        self._may_be_secure = settings.cookie_secure
        self._origins = origins
        self._cors = cors

    def signed_in(self, request: web.Request, done: SignIn) -> web.Response:
        """The answer of login, refresh and exchange. A page of a strange origin gets no cookies."""
        response = reply(
            {
                "user": shown(done.user),
                "admin_ui_access": is_admin(done.user),
                "expires_at": rfc3339(done.expires_ms),
                "access_token": done.access_token,
                "refresh_token": done.refresh_token,
                "refresh_expires_at": rfc3339(done.refresh_expires_ms),
            }
        )
        if self._is_strange(request):
            return response
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
                secure=self._secure(request),
                expires=_http_date(expires_ms),
            )
        return response

    def clear(self, request: web.Request, response: web.Response) -> None:
        for name in (ACCESS_COOKIE, REFRESH_COOKIE):
            response.del_cookie(
                name, path="/", httponly=True, samesite="Strict", secure=self._secure(request)
            )

    def to_change(self, request: web.Request, name: str) -> str | None:
        """A cookie for a route that changes something; None when it is not there.

        Raises: PermissionDenied for a request of another page, or of none; MalformedRequest.
        """
        token = request.cookies.get(name)
        if token is None:
            return None
        if request.content_type != "application/json":
            raise MalformedRequest("with a cookie, send Content-Type: application/json")
        if not self._is_own_page(request):
            raise PermissionDenied("using the cookie", "a request of a page of the same origin")
        return token

    def check_no_stranger(self, request: web.Request, action: str) -> None:
        """For what needs no token, only a caller of this machine: a browser here may show the page
        of anybody. Raises PermissionDenied.
        """
        if self._is_strange(request):
            raise PermissionDenied(action, "a request of a page of the same origin, or of none")

    def _secure(self, request: web.Request) -> bool:
        return self._may_be_secure and self._origins.is_https(request)

    def _is_own_page(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is not None and self._cors.names(origin):
            return True
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None and site != "same-origin":
            return False
        if origin is None:
            return site is not None
        return self._is_own(request, origin)

    def _is_own(self, request: web.Request, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        if host != request.headers.get("Host"):
            return False
        return scheme == "https" or (scheme == "http" and not self._origins.is_https(request))

    def _is_strange(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            return request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        return not (self._is_own(request, origin) or self._cors.names(origin))


def is_admin(user: User) -> bool:
    return user.role.at_least(Role.DBA)


def shown(user: User) -> dict[str, Any]:
    return {
        "id": user.name,
        "role": user.role.value,
        "email": user.email,
        "created_at": rfc3339(user.created_ms),
        "updated_at": rfc3339(user.updated_ms),
    }


def rfc3339(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _http_date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
