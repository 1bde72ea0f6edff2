"""An issuer known by a file of keys alone, and a server that takes no passwords."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.contract import CHEAP_HASHES
from tests.e2e.issuer import CLIENT, Issuer, SigningKey
from tests.e2e.server import ROOT_PASSWORD, Client, Server, running

URL = "https://issuer.example.org/realm"


def write(path: Path, *keys: SigningKey) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"keys": [key.jwk for key in keys]}))
    os.replace(beside, path)


def settings(path: Path, **more: str) -> dict[str, str]:
    return {
        **CHEAP_HASHES,
        "KALAMDB_AUTH_OIDC_ENABLED": "true",
        "KALAMDB_AUTH_OIDC_ISSUER": URL,
        "KALAMDB_AUTH_OIDC_AUDIENCE": CLIENT,
        "KALAMDB_AUTH_OIDC_JWKS_FILE": str(path),
        **more,
    }


async def post(http: aiohttp.ClientSession, server: Server, path: str, body: Any) -> Any:
    async with http.post(f"{server.url}/v1/api/auth/{path}", json=body) as response:
        return response.status, await response.json()


async def test_keys_come_from_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    issuer = Issuer(URL, [SigningKey("one")])
    write(path, *issuer.keys)
    async with (
        running(tmp_path / "data", settings(path)) as server,
        aiohttp.ClientSession() as http,
    ):
        root = await server.login(http)
        identity = json.dumps({"issuer": URL, "subject": "olga"})
        await root.ok(f"CREATE USER olga WITH OIDC '{identity}' ROLE service")
        old = Client(http, server.url, issuer.token("olga"))
        await old.ok("SELECT 1")
        stranger = Client(http, server.url, issuer.token("stranger"))
        refused = await stranger.sql("SELECT 1")
        assert (refused.status, refused.code) == (401, "INVALID_CREDENTIALS"), "nobody made it"
        issuer.keys = [SigningKey("two", "ES256")]
        write(path, *issuer.keys)
        await Client(http, server.url, issuer.token("olga")).ok("SELECT 1")
        assert (await old.sql("SELECT 1")).code == "INVALID_CREDENTIALS"
        path.write_text("{ half a file")
        await Client(http, server.url, issuer.token("olga", nonce="x")).ok("SELECT 1")
        status, body = await post(
            http, server, "oidc/exchange-token", {"token": issuer.token("olga")}
        )
        assert (status, body["user"]["role"]) == (200, "service")
        async with http.get(f"{server.url}/v1/api/auth/login-options") as response:
            options = await response.json()
        assert options["oidc"]["issuer"] == URL
        assert options["oidc"]["token_endpoint"] is None, "nobody answers there"
        code = {"code": "c", "code_verifier": "v" * 43, "redirect_uri": "https://app"}
        assert (await post(http, server, "oidc/exchange-code", code))[0] == 503
        assert (await post(http, server, "oidc/device/start", {}))[0] == 403, "it is off"


async def test_a_server_without_passwords(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    issuer = Issuer(URL, [SigningKey("one")])
    write(path, *issuer.keys)
    data = tmp_path / "data"
    async with running(data, settings(path)) as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        identity = json.dumps({"issuer": URL, "subject": "olga"})
        await root.ok(f"CREATE USER olga WITH OIDC '{identity}' ROLE dba")
        assert server.stop() == 0
    more = {"KALAMDB_AUTH_LOCAL_ENABLED": "false"}
    async with running(data, settings(path, **more)) as server, aiohttp.ClientSession() as http:
        status, body = await post(
            http, server, "login", {"user": "root", "password": ROOT_PASSWORD}
        )
        assert (status, body["error"]) == (403, "forbidden")
        setup = {"user": "x", "password": ROOT_PASSWORD, "root_password": ROOT_PASSWORD}
        assert (await post(http, server, "setup", setup))[0] == 403
        await Client(http, server.url, issuer.token("olga")).ok("CREATE NAMESPACE app")
        async with http.get(f"{server.url}/v1/api/auth/login-options") as response:
            assert (await response.json())["local"] == {"enabled": False}


@pytest.mark.parametrize(
    "bad",
    [
        {"KALAMDB_AUTH_OIDC_ISSUER": ""},
        {"KALAMDB_AUTH_OIDC_ISSUER": "http://issuer.example.org"},
        {"KALAMDB_AUTH_OIDC_AUDIENCE": ""},
        {"KALAMDB_AUTH_OIDC_JWKS_URI": "https://issuer.example.org/keys"},
        {"KALAMDB_AUTH_OIDC_ENABLED": "false", "KALAMDB_AUTH_LOCAL_ENABLED": "false"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_stop_the_start(tmp_path: Path, bad: dict[str, str]) -> None:
    server = Server(tmp_path / "data", settings(tmp_path / "keys.json", **bad))
    server.spawn()
    assert server.process is not None
    assert server.process.wait(30) != 0
    assert "auth." in server.log.read_text()


async def test_a_server_starts_while_its_issuer_is_away(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    issuer = Issuer(URL, [SigningKey("one")])
    env = settings(path, KALAMDB_AUTH_OIDC_AUTO_PROVISION="true")
    async with running(tmp_path / "data", env) as server, aiohttp.ClientSession() as http:
        olga = Client(http, server.url, issuer.token("olga"))
        refused = await olga.sql("SELECT 1")
        assert (refused.status, refused.code) == (503, "CLUSTER_UNAVAILABLE")
        await server.login(http)
        write(path, *issuer.keys)
        deadline = time.monotonic() + 15
        while (await olga.sql("SELECT 1")).status != 200:
            assert time.monotonic() < deadline
