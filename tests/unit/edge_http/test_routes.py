"""The routes beside SQL: signing in, setup, health, metrics, debug, origins, unknown paths."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from kalamdb import errors
from kalamdb.edge.http.admin import NodeStatus
from kalamdb.edge.http.app import HttpParts, build_app, serve
from kalamdb.edge.http.auth import word_of
from kalamdb.edge.http.origin import Origins
from kalamdb.lib.observe import Metrics
from kalamdb.session.auth import ROOT_PASSWORD
from tests.unit.edge_http.world import PASSWORD, EchoSockets, World, changed, opened

pytestmark = pytest.mark.usefixtures("each_front")

AWAY = {"X-Forwarded-For": "203.0.113.9"}  # the test client is on loopback, a trusted proxy


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    async with opened() as made:
        yield made


async def login(world: World, **body: Any) -> tuple[int, dict[str, Any]]:
    response = await world.http.post("/v1/api/auth/login", json=body)
    return response.status, await response.json()


async def test_login_refresh_me_logout(world: World) -> None:
    status, done = await login(world, user="alice", password=PASSWORD)
    assert status == 200
    assert set(done) == {
        "user",
        "admin_ui_access",
        "expires_at",
        "access_token",
        "refresh_token",
        "refresh_expires_at",
    }
    assert done["user"]["id"] == "alice"
    assert done["user"]["role"] == "user"
    assert done["admin_ui_access"] is False
    assert datetime.fromisoformat(done["expires_at"]).utcoffset() is not None

    bearer = {"Authorization": f"Bearer {done['access_token']}"}
    me = await (await world.http.get("/v1/api/auth/me", headers=bearer)).json()
    assert me == {"user": done["user"], "admin_ui_access": False}
    refresh = {"Authorization": f"Bearer {done['refresh_token']}"}
    world.clock.pass_s(60)
    world.http.session.cookie_jar.clear()
    again = await (await world.http.post("/v1/api/auth/refresh", headers=refresh)).json()
    assert again["access_token"] != done["access_token"]

    out = await world.http.post("/v1/api/auth/logout", headers=bearer)
    assert await out.json() == {"message": "signed out"}
    assert (await world.http.get("/v1/api/auth/me", headers=bearer)).status == 401


async def test_cookies(world: World) -> None:
    response = await world.http.post(
        "/v1/api/auth/login", json={"username": "alice", "password": PASSWORD}
    )
    cookies = response.headers.getall("Set-Cookie")
    assert {cookie.split("=")[0] for cookie in cookies} == {"kalamdb_auth", "kalamdb_refresh"}
    for cookie in cookies:
        for part in ("HttpOnly", "Path=/", "SameSite=Strict", "expires="):
            assert part in cookie
        assert "Secure" not in cookie
    https = {"X-Forwarded-Proto": "https"}
    response = await world.http.post(
        "/v1/api/auth/login", json={"user": "alice", "password": PASSWORD}, headers=https
    )
    assert all("Secure" in cookie for cookie in response.headers.getall("Set-Cookie"))
    jar = {"Cookie": f"kalamdb_auth={world.tokens['alice']}"}
    world.http.session.cookie_jar.clear()
    assert (await world.http.get("/v1/api/auth/me", headers=jar)).status == 200
    assert (await world.http.post("/v1/api/sql", json={"sql": "x"}, headers=jar)).status == 401


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"user": "alice", "password": "wrong"}, 401, "unauthorized"),
        ({"user": "nobody", "password": PASSWORD}, 401, "unauthorized"),
        ({"user": "root", "password": ""}, 428, "setup_required"),
        ({"user": "root", "password": "x"}, 401, "unauthorized"),
        ({"user": "alice"}, 400, "invalid_input"),
        ({"password": PASSWORD}, 400, "invalid_input"),
        ({"user": "alice", "username": "alice", "password": PASSWORD}, 400, "invalid_input"),
        ({"user": "alice", "password": PASSWORD, "extra": 1}, 400, "invalid_input"),
        ({"user": "a" * 129, "password": PASSWORD}, 400, "invalid_input"),
        ({"user": "alice", "password": "p" * 1025}, 400, "invalid_input"),
        ({"user": "alice", "password": "p" * 70_000}, 413, "body_too_large"),
        ({"user": "alice", "password": 1}, 400, "invalid_input"),
    ],
)
async def test_refused_logins(world: World, body: dict[str, Any], status: int, word: str) -> None:
    found, answer = await login(world, **body)
    assert (found, answer["error"]) == (status, word)
    assert PASSWORD not in str(answer)


async def test_a_locked_account(world: World) -> None:
    for _ in range(5):
        assert (await login(world, user="alice", password="wrong"))[0] == 401
    response = await world.http.post(
        "/v1/api/auth/login", json={"user": "alice", "password": PASSWORD}
    )
    assert response.status == 401
    assert (await response.json())["error"] == "account_locked"
    assert response.headers["Retry-After"] == "900"


async def test_sign_ins_of_one_address_are_limited() -> None:
    async with opened(changed("rate_limit", auth_per_ip_per_s=1.0)) as world:
        for _ in range(5):
            assert (await login(world, user="alice", password=PASSWORD))[0] == 200
        status, answer = await login(world, user="alice", password=PASSWORD)
        assert (status, answer["error"]) == (429, "rate_limited")
        away = await world.http.post(
            "/v1/api/auth/login", json={"user": "alice", "password": PASSWORD}, headers=AWAY
        )
        assert away.status == 200


async def test_no_page_of_somebody_else_sets_up(world: World) -> None:
    # A browser sends such a request without asking first: the body says no type.
    body = b'{"user": "first", "password": "a-long-password-1", "root_password": "a-long-word-2"}'
    for strange in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        response = await world.http.post(
            "/v1/api/auth/setup", data=body, headers=strange, skip_auto_headers=["Content-Type"]
        )
        assert (response.status, (await response.json())["error"]) == (403, "forbidden")
    assert "first" not in world.groups.catalog.users


async def test_setup(world: World) -> None:
    status = await (await world.http.get("/v1/api/auth/status")).json()
    assert status["needs_setup"] is True
    body = {"user": "carol", "password": "carol-has-one", "root_password": "root-has-one-too"}
    for path in ("status", "setup"):
        call = world.http.get if path == "status" else world.http.post
        away = await call(f"/v1/api/auth/{path}", headers=AWAY)
        assert (away.status, (await away.json())["error"]) == (403, "forbidden")

    async def setup(**changes: Any) -> tuple[int, str]:
        response = await world.http.post("/v1/api/auth/setup", json=body | changes)
        answer = await response.json()
        return response.status, answer.get("error", answer.get("message"))

    assert await setup(user="root") == (400, "invalid_user")
    assert await setup(password="short") == (400, "weak_password")
    assert await setup(user="alice") == (409, "user_exists")
    assert await setup(more=1) == (400, "invalid_input")
    assert (await setup())[0] == 200
    assert await setup(user="dave") == (409, "already_configured")
    status = await (await world.http.get("/v1/api/auth/status")).json()
    assert status["needs_setup"] is False
    assert (await login(world, user="carol", password="carol-has-one"))[0] == 200


def test_words_of_errors_that_are_seldom() -> None:
    assert word_of(errors.Overloaded("q", 1)) == (503, "overloaded")
    assert word_of(errors.AlreadyExists(ROOT_PASSWORD, "")) == (409, "already_configured")
    assert word_of(errors.Indeterminate("x")) == (504, "outcome_unknown")


# ── the node ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/health", "/v1/api/healthcheck"])
async def test_health_answers_any_caller(world: World, path: str) -> None:
    for status, code, word in (
        (NodeStatus(True), 200, "healthy"),
        (NodeStatus(True, degraded="disk full: writes are refused"), 200, "degraded"),
        (NodeStatus(False, "no leader for groups 3, 5"), 503, "unhealthy"),
    ):
        world.node.state = status
        response = await world.http.get(path, headers=AWAY)
        answer = await response.json()
        assert (response.status, answer["status"]) == (code, word)
        assert answer.get("reason", "") == (status.reason or status.degraded)
        assert answer["api_version"] == "v1"


@pytest.mark.parametrize("path", ["/metrics", "/debug/digest", "/debug/raft"])
async def test_operators_only(world: World, path: str) -> None:
    assert (await world.http.get(path)).status == 200
    assert (await world.http.get(path, headers=AWAY)).status == 401
    assert (await world.http.get(path, headers=AWAY | world.headers("alice"))).status == 403
    assert (await world.http.get(path, headers=world.headers("alice"))).status == 403
    assert (await world.http.get(path, headers=AWAY | world.headers("dora"))).status == 200
    assert (await world.http.get(path, headers={"Authorization": "Bearer x"})).status == 401


async def test_metrics_can_be_read(world: World) -> None:
    await world.sql({"sql": "SELECT 1"})
    await world.sql(b"{")
    text = await (await world.http.get("/metrics")).text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["kalamdb_sql_http_requests"].samples[0].value == 2
    assert families["kalamdb_sql_http_failed"].samples[0].value == 1
    latency = {
        (sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value
        for sample in families["kalamdb_sql_http_latency_s"].samples
    }
    assert latency["bucket", "+Inf"] == 2
    assert "process_resident_memory_bytes" in families


async def test_debug_shows_groups(world: World) -> None:
    digest = await (await world.http.get("/debug/digest")).json()
    assert digest == {"groups": {"1": "abc"}}
    raft = await (await world.http.get("/debug/raft")).json()
    assert raft["groups"][0]["role"] == "leader"
    assert raft["groups"][0]["voters"] == [1]


@pytest.mark.parametrize(
    ("forwarded", "allowed"),
    [
        ("203.0.113.9", False),
        ("127.0.0.1, 203.0.113.9", False),  # the left part is what the client made up
        ("203.0.113.9, 127.0.0.1", False),
        ("nonsense", False),
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
    ],
)
async def test_this_machine_behind_a_proxy(world: World, forwarded: str, allowed: bool) -> None:
    response = await world.http.get("/metrics", headers={"X-Forwarded-For": forwarded})
    assert (response.status == 200) is allowed


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", "198.51.100.7", "203.0.113.1"),  # no proxy of ours: not believed
        ("127.0.0.1", "198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "198.51.100.7, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        (None, "", "None"),
    ],
)
def test_the_client_behind_proxies(peer: str | None, forwarded: str, client: str) -> None:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=peer or "")
    assert Origins(["10.0.0.0/8"]).key(request) == client


# ── paths and origins ────────────────────────────────────────────────────────────────────────────


async def test_unknown_paths_and_wrong_methods(world: World) -> None:
    response = await world.http.get("/v1/api/nothing?x=1")
    assert (response.status, (await response.json())["error"]) == (404, "NOT_FOUND")
    response = await world.http.get("/v1/api/sql")
    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert (await response.json())["error"] == "METHOD_NOT_ALLOWED"
    assert (await world.http.options("/v1/api/sql")).status == 405


async def test_no_origin_is_let_in_by_default(world: World) -> None:
    response = await world.sql({"sql": "x"}, headers={"Origin": "https://app.example"})
    assert response.status == 200
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("origins", [("https://app.example",), ("*",)])
async def test_cors(origins: tuple[str, ...]) -> None:
    async with opened(changed("http", cors_origins=origins)) as world:
        asked = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = await world.http.options("/v1/api/sql", headers=asked)
        assert preflight.status == 204
        assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
        let_in = origins[0] if origins != ("*",) else "*"
        for response in (
            preflight,
            await world.sql({"sql": "x"}, headers=asked),
            await world.sql(b"{", headers=asked),
            await world.http.get("/health", headers=asked),
        ):
            assert response.headers["Access-Control-Allow-Origin"] == let_in
            credentials = response.headers.get("Access-Control-Allow-Credentials")
            assert credentials == (None if let_in == "*" else "true")
        if let_in != "*":
            strange = {"Origin": "https://evil.example"}
            assert (await world.http.options("/v1/api/sql", headers=strange)).status == 403
            response = await world.sql({"sql": "x"}, headers=strange)
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_websockets_of_strange_origins() -> None:
    async with opened(changed("http", cors_origins=("https://app.example",))) as world:
        own = f"http://{world.http.host}:{world.http.port}"
        for origin in ("https://app.example", own, None):
            headers = {} if origin is None else {"Origin": origin}
            async with world.http.ws_connect("/v1/ws", headers=headers) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
        refused = await world.http.get("/v1/ws", headers={"Origin": "https://evil.example"})
        assert refused.status == 403


async def test_serve_listens_with_the_settings(world: World) -> None:
    settings = changed("http", max_header_bytes=2048)
    parts = HttpParts(world.session, world.auth, EchoSockets(), world.node, Metrics())
    runner = await serve(build_app(parts, settings, world.clock), "127.0.0.1", 0, settings)
    try:
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/health")).status == 200
            assert (await http.get("/health", headers={"X": "x" * 3000})).status == 400
    finally:
        await runner.cleanup()
