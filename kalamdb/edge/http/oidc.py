"""/v1/api/auth/login-options and /v1/api/auth/oidc/*: signing in at the outside issuer.

Each exchange ends like a login: KalamDB's own tokens, in the body and in cookies. Keeps: every
attempt is counted by address; nothing of a sign-in is remembered between two requests.
"""

from __future__ import annotations

import re

import msgspec
from aiohttp import web

from kalamdb.config import AuthSettings
from kalamdb.edge.http.auth import AuthEdge, Handler, answering, decoded
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.replies import reply
from kalamdb.edge.http.signed_in import Cookies
from kalamdb.errors import KalamError, MalformedRequest, PermissionDenied
from kalamdb.session.auth import Authenticator, SignIn, when_keys_are_there
from kalamdb.session.provider import NOWHERE, Provider, StillWaiting

AT = "/v1/api/auth"
DEVICE_START, DEVICE_POLL = f"{AT}/oidc/device/start", f"{AT}/oidc/device/poll"
FIELD_LENGTH_MAX = 4096
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class CodeBody(msgspec.Struct, forbid_unknown_fields=True):
    """What the page holds after the issuer sent its user back (PKCE, RFC 7636)."""

    code: str
    code_verifier: str
    redirect_uri: str
    nonce: str | None = None


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class DeviceStartBody(msgspec.Struct, forbid_unknown_fields=True):
    pass


class DevicePollBody(msgspec.Struct, forbid_unknown_fields=True):
    device_code: str


class OidcEdge:
    """The handlers, by route. Without a `provider` they say that there is none."""

    def __init__(
        self,
        auth: Authenticator,
        provider: Provider | None,
        settings: AuthSettings,
        origins: Origins,
        *,
        cookies: Cookies,
        local: AuthEdge,
    ) -> None:
        self._auth = auth
        self._provider = provider
        self._settings = settings
        self._origins = origins
        self._cookies = cookies
        self._attempt = local.attempt

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler)."""
        return [
            ("GET", f"{AT}/login-options", answering(self._options)),
            ("POST", f"{AT}/oidc/exchange-code", answering(self._exchange_code)),
            ("POST", f"{AT}/oidc/exchange-token", answering(self._exchange_token)),
            ("POST", DEVICE_START, answering(self._start_device)),
            ("POST", DEVICE_POLL, answering(self._poll_device)),
        ]

    async def _options(self, request: web.Request) -> web.Response:
        settings = self._settings.oidc
        shown: dict[str, object] = {"enabled": self._provider is not None}
        if self._provider is not None:
            try:
                found = await self._provider.discovery()
            except KalamError:
                found = NOWHERE  # the issuer does not answer: passwords may still do
            broker = settings.device_flow and found.device_authorization is not None
            shown |= {
                "display_name": settings.display_name,
                "issuer": settings.issuer,
                "client_id": settings.client_id,
                "authorization_endpoint": found.authorization,
                "token_endpoint": found.token,
                "device_authorization_endpoint": found.device_authorization,
                "scopes": settings.scopes,
                "device_flow": {
                    "direct_supported": found.device_authorization is not None,
                    "broker_supported": broker,
                    "broker_start_endpoint": DEVICE_START if broker else None,
                    "broker_poll_endpoint": DEVICE_POLL if broker else None,
                },
            }
        return reply({"local": {"enabled": self._settings.local.enabled}, "oidc": shown})

    async def _exchange_code(self, request: web.Request) -> web.Response:
        self._attempt(request)
        provider = self._known()
        body = await decoded(request, CodeBody)
        _check_lengths(body.code, body.redirect_uri, body.nonce or "")
        if _VERIFIER.fullmatch(body.code_verifier) is None:
            raise MalformedRequest("code_verifier has 43 to 128 of A-Z a-z 0-9 . _ ~ -")
        token = await provider.exchange_code(body.code, body.code_verifier, body.redirect_uri)
        done = await self._id_token(request, token, body.nonce)
        return self._cookies.signed_in(request, done)

    async def _exchange_token(self, request: web.Request) -> web.Response:
        self._attempt(request)
        self._known()
        body = await decoded(request, TokenBody)
        address = self._origins.key(request)
        done = await when_keys_are_there(
            lambda: self._auth.exchange(body.token, address, is_id_token=False)
        )
        return self._cookies.signed_in(request, done)

    async def _start_device(self, request: web.Request) -> web.Response:
        self._attempt(request)
        provider = self._broker()
        await decoded(request, DeviceStartBody)
        begun = await provider.start_device()
        return reply(
            {
                "device_code": begun.device_code,
                "user_code": begun.user_code,
                "verification_uri": begun.verification_uri,
                "verification_uri_complete": begun.verification_uri_complete,
                "expires_in": begun.expires_s,
                "interval": begun.interval_s,
            }
        )

    async def _poll_device(self, request: web.Request) -> web.Response:
        self._attempt(request)
        provider = self._broker()
        body = await decoded(request, DevicePollBody)
        _check_lengths(body.device_code)
        token = await provider.poll_device(body.device_code)
        if isinstance(token, StillWaiting):
            return reply({"status": "slow_down" if token.slower else "pending"}, 202)
        done = await self._id_token(request, token, None)
        return self._cookies.signed_in(request, done)

    async def _id_token(self, request: web.Request, token: str, nonce: str | None) -> SignIn:
        address = self._origins.key(request)
        return await when_keys_are_there(
            lambda: self._auth.exchange(token, address, is_id_token=True, nonce=nonce)
        )

    def _known(self) -> Provider:
        if self._provider is None:
            raise PermissionDenied("signing in at an outside issuer", "auth.oidc.enabled")
        return self._provider

    def _broker(self) -> Provider:
        provider = self._known()
        if not self._settings.oidc.device_flow:
            raise PermissionDenied("signing in of devices", "auth.oidc.device_flow")
        return provider


def _check_lengths(*texts: str) -> None:
    if not all(len(text) <= FIELD_LENGTH_MAX for text in texts):
        raise MalformedRequest(f"a field has more than {FIELD_LENGTH_MAX} characters")
