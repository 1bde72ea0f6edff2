"""A small OpenID Connect provider of a test's own: discovery, keys, tokens, devices, rotation."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import BasicAuth, web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT, SECRET = "kalam-client", "kalam client's secret/+"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass
class SigningKey:
    """One key pair; `jwk` is its public half."""

    key_id: str
    algorithm: str = "RS256"
    private: Any = None

    def __post_init__(self) -> None:
        if self.private is None and self.algorithm.startswith("ES"):
            curve = ec.SECP256R1() if self.algorithm == "ES256" else ec.SECP384R1()
            self.private = ec.generate_private_key(curve)
        elif self.private is None:
            self.private = rsa.generate_private_key(65537, 2048)

    @property
    def jwk(self) -> dict[str, Any]:
        made = jwt.get_algorithm_by_name(self.algorithm)
        shown: dict[str, Any] = made.to_jwk(self.private.public_key(), as_dict=True)
        return {**shown, "kid": self.key_id, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        return jwt.encode(
            claims, self.private, algorithm=self.algorithm, headers={"kid": self.key_id, **headers}
        )


@dataclass
class Issuer:
    """What the provider knows; tests change it while it runs."""

    url: str = ""
    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey("k1")])
    key_requests: int = 0
    broken: bool = False
    codes: dict[str, tuple[str, str, dict[str, Any]]] = field(default_factory=dict[str, Any])
    devices: dict[str, dict[str, Any] | None] = field(default_factory=dict[str, Any])
    polls: int = 0

    def claims(self, subject: str, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        made: dict[str, Any] = {
            "sub": subject,
            "iss": self.url,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 600,
        }
        return {name: value for name, value in {**made, **changes}.items() if value is not ...}

    def token(self, subject: str, **changes: Any) -> str:
        return self.keys[-1].sign(self.claims(subject, **changes))

    def consent(self, code: str, verifier: str, redirect_uri: str, **claims: Any) -> None:
        """As if the user had signed in: `code` waits to be exchanged."""
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        self.codes[code] = (challenge, redirect_uri, claims)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/jwks", self._jwks)
        app.router.add_post("/token", self._token)
        app.router.add_post("/device", self._device)
        return app

    async def _discovery(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "device_authorization_endpoint": f"{self.url}/device",
                "jwks_uri": f"{self.url}/jwks",
            }
        )

    async def _jwks(self, request: web.Request) -> web.Response:
        self.key_requests += 1
        if self.broken:
            raise web.HTTPInternalServerError
        return web.json_response({"keys": [key.jwk for key in self.keys]})

    async def _token(self, request: web.Request) -> web.Response:
        # The client's id and secret are form-encoded before they are put into the header.
        told = BasicAuth.decode(request.headers["Authorization"])
        if (told.login, told.password) != (CLIENT, "kalam%20client%27s%20secret%2F%2B"):
            return web.json_response({"error": "invalid_client"}, status=401)
        form = await request.post()
        if form["grant_type"] == DEVICE_GRANT:
            return self._polled(str(form["device_code"]))
        code = self.codes.pop(str(form["code"]), None)
        if code is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        challenge, redirect_uri, claims = code
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        if challenge != base64.urlsafe_b64encode(digest).decode().rstrip("="):
            return web.json_response({"error": "invalid_grant"}, status=400)
        if form["redirect_uri"] != redirect_uri:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"id_token": self.token(**claims), "token_type": "Bearer"})

    async def _device(self, request: web.Request) -> web.Response:
        code = f"device-{len(self.devices)}"
        self.devices[code] = None
        return web.json_response(
            {
                "device_code": code,
                "user_code": "ABCD-EFGH",
                "verification_uri": f"{self.url}/activate",
                "expires_in": 600,
                "interval": 1,
            }
        )

    def _polled(self, code: str) -> web.Response:
        if code not in self.devices:
            return web.json_response({"error": "expired_token"}, status=400)
        claims = self.devices[code]
        if claims is None:
            return web.json_response({"error": "authorization_pending"}, status=400)
        return web.json_response({"id_token": self.token(**claims)})


@contextlib.asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    runner = web.AppRunner(issuer.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    issuer.url = f"http://127.0.0.1:{port}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
