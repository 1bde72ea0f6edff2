"""The outside issuer as a client of it sees it: discovery, sign-in with a code, sign-in of devices.

Keeps: only endpoints of the configured issuer's own discovery document are spoken to, over https
(http on this machine). Nothing is kept of a sign-in between two requests: the browser or the device
holds what belongs to it, the server only adds who the client is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kalamdb.config import OidcSettings, check_endpoint
from kalamdb.errors import InvalidCredentials, KalamError, MalformedRequest, Unavailable
from kalamdb.lib.clock import Clock
from kalamdb.lib.fetch import Fetch, Fetched

FRESH_S = 300.0
RETRY_S = 10.0
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_STILL_WAITING = frozenset(("authorization_pending", "slow_down"))


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where the issuer's endpoints are; None for those it does not have."""

    authorization: str | None
    token: str | None
    device_authorization: str | None
    jwks: str | None
    secret_in_form: bool


NOWHERE = Discovery(None, None, None, None, False)


@dataclass(frozen=True, slots=True)
class DeviceStart:
    """What a device shows its user, and what it polls with. Seconds."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_s: int
    interval_s: int


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """The user has not answered yet; `slower`: the device polls too often."""

    slower: bool


class Provider:
    """See the module."""

    def __init__(self, settings: OidcSettings, fetch: Fetch, clock: Clock) -> None:
        assert settings.issuer is not None
        self.issuer = settings.issuer
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._found: Discovery | None = None
        self._failed: KalamError | None = None
        self._asked_s = -1e12
        self._asking = asyncio.Lock()

    async def discovery(self) -> Discovery:
        """The discovery document, at most `FRESH_S` old while the issuer answers; one request at a
        time. Raises: Unavailable when there never was one.
        """
        async with self._asking:
            age_s = self._clock.monotonic_s() - self._asked_s
            if age_s >= (RETRY_S if self._failed else FRESH_S):
                try:
                    self._found = await self._discover()
                    self._failed = None
                except KalamError as error:
                    self._failed = error
                self._asked_s = self._clock.monotonic_s()
            if self._found is None:
                raise Unavailable(f"{self.issuer} cannot be asked: {self._failed}")
            return self._found

    async def _discover(self) -> Discovery:
        url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        said = _good(await self._fetch.get(url), url)
        if said.get("issuer") != self.issuer:
            raise Unavailable(f"{url} is of another issuer")
        methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return Discovery(
            _endpoint(said, "authorization_endpoint"),
            _endpoint(said, "token_endpoint"),
            _endpoint(said, "device_authorization_endpoint"),
            _endpoint(said, "jwks_uri"),
            isinstance(methods, list) and "client_secret_basic" not in methods,
        )

    async def keys(self) -> bytes:
        """The issuer's JWK set. Raises: Unavailable."""
        url = self._settings.jwks_uri or (await self.discovery()).jwks
        if url is None:
            raise Unavailable(f"{self.issuer} names no jwks_uri")
        answer = await self._fetch.get(url)
        _good(answer, url)
        return answer.body

    async def exchange_code(self, code: str, verifier: str, redirect_uri: str) -> str:
        """The ID token for an authorization code. Raises: InvalidCredentials, Unavailable."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
        }
        answer = await self._post((await self.discovery()).token, "a token endpoint", form)
        if answer.status != 200:
            raise InvalidCredentials(f"the issuer refused the code: {_complaint(answer)}")
        return _id_token(answer)

    async def start_device(self) -> DeviceStart:
        """Raises: Unavailable."""
        where = (await self.discovery()).device_authorization
        form = {"scope": " ".join(self._settings.scopes)}
        answer = await self._post(where, "a device authorization endpoint", form)
        said = _good(answer, "the device authorization endpoint")
        shown = (
            said.get("device_code"),
            said.get("user_code"),
            said.get("verification_uri"),
            said.get("expires_in"),
            said.get("interval", 5),
        )
        complete = said.get("verification_uri_complete")
        match shown:
            case (str() as device, str() as user, str() as uri, int() as expires, int() as pause):
                whole = complete if isinstance(complete, str) else None
                return DeviceStart(device, user, uri, whole, expires, pause)
            case _:
                raise Unavailable("the issuer's answer is no device authorization")

    async def poll_device(self, device_code: str) -> str | StillWaiting:
        """The ID token once the user agreed. Raises: InvalidCredentials, Unavailable."""
        form = {"grant_type": DEVICE_GRANT, "device_code": device_code}
        answer = await self._post((await self.discovery()).token, "a token endpoint", form)
        if answer.status == 200:
            return _id_token(answer)
        why = answer.json_object().get("error")
        if why in _STILL_WAITING:
            return StillWaiting(why == "slow_down")
        raise InvalidCredentials(f"the issuer refused the device: {_complaint(answer)}")

    async def _post(self, url: str | None, what: str, form: Mapping[str, str]) -> Fetched:
        """With who the client is: in the header or the form, as the issuer wants it."""
        settings = self._settings
        if url is None:
            raise MalformedRequest(f"the issuer has not got {what}")
        if settings.client_id is None:
            raise MalformedRequest("auth.oidc.client_id is not set")
        client, secret = settings.client_id, settings.client_secret
        if secret is None:
            answer = await self._fetch.post_form(url, {**form, "client_id": client})
        elif self._found is not None and self._found.secret_in_form:
            named = {"client_id": client, "client_secret": secret}
            answer = await self._fetch.post_form(url, {**form, **named})
        else:
            basic = (quote(client, safe=""), quote(secret, safe=""))
            answer = await self._fetch.post_form(url, form, basic)
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable(f"{url} answers {answer.status}")
        return answer


def _good(answer: Fetched, where: str) -> dict[str, Any]:
    said = answer.json_object()
    if answer.status != 200 or not said:
        raise Unavailable(f"{where} answers {answer.status} without what is needed")
    return said


def _endpoint(said: dict[str, Any], name: str) -> str | None:
    url = said.get(name)
    if not isinstance(url, str):
        return None
    if complaint := check_endpoint(url.partition("?")[0]):
        raise Unavailable(f"the issuer's {name} cannot be used: {complaint}")
    return url


def _id_token(answer: Fetched) -> str:
    token = answer.json_object().get("id_token")
    if not isinstance(token, str):
        raise InvalidCredentials("the issuer gave no ID token; the scopes need openid")
    return token


def _complaint(answer: Fetched) -> str:
    """The issuer's error word, which has a small alphabet of its own (RFC 6749, 5.2)."""
    said = answer.json_object().get("error")
    plain = isinstance(said, str) and said.isascii() and said.isprintable()
    return said[:60] if plain and isinstance(said, str) else f"status {answer.status}"
