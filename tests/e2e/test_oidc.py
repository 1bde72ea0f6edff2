"""Signing in at an outside issuer: its tokens, its keys, the exchanges."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from tests.e2e.contract import Live, Node, live, one_node
from tests.e2e.issuer import CLIENT, SECRET, Issuer, SigningKey, running_issuer
from tests.e2e.server import ROOT_PASSWORD, Answer, Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFRESH_S = "1"
VERIFIER = "a-verifier-that-has-at-least-forty-three-characters"
PAGE = "https://app.example.org/back"
KEY = SigningKey("of-tests")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384")


@dataclass
class World:
    node: Node
    issuer: Issuer

    async def sql(self, token: str, sql: str = "SELECT id, body FROM app.notes") -> Answer:
        return await Client(self.node.http, self.node.server.url, token).sql(sql)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        url = f"{self.node.server.url}/v1/api/auth/{path}"
        async with self.node.http.post(url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def options(self) -> Any:
        url = f"{self.node.server.url}/v1/api/auth/login-options"
        async with self.node.http.get(url) as response:
            assert response.status == 200
            return await response.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running_issuer() as issuer:
        issuer.keys = [*(SigningKey(f"of {name}", name) for name in ALGORITHMS), *issuer.keys]
        env = {
            "KALAMDB_AUTH_OIDC_ENABLED": "true",
            "KALAMDB_AUTH_OIDC_ISSUER": issuer.url,
            "KALAMDB_AUTH_OIDC_CLIENT_ID": CLIENT,
            "KALAMDB_AUTH_OIDC_CLIENT_SECRET": SECRET,
            "KALAMDB_AUTH_OIDC_AUTO_PROVISION": "true",
            "KALAMDB_AUTH_OIDC_DEVICE_FLOW": "true",
            "KALAMDB_AUTH_OIDC_JWKS_REFRESH_S": REFRESH_S,
            "KALAMDB_WEBSOCKET_HEARTBEAT_INTERVAL_S": "0.2",
        }
        async with one_node(tmp_path_factory.mktemp("oidc") / "data", env) as node:
            await node.root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
            for name, role in (("olga", "dba"), ("omar", "user")):
                identity = f'{{"issuer": "{issuer.url}", "subject": "{name}"}}'
                await node.root.ok(f"CREATE USER {name} WITH OIDC '{identity}' ROLE {role}")
            await node.user("paul")
            yield World(node, issuer)


# ---- tokens as they are -------------------------------------------------------------------------


async def test_a_token_of_the_issuer_opens_its_subjects_world(world: World) -> None:
    token = world.issuer.token("pass.er-by_1@example.org", email="p@example.org")
    assert (await world.sql(token, "INSERT INTO app.notes VALUES (1, 'mine')")).status == 200
    assert (await world.sql(token)).rows == [[1, "mine"]]
    assert (await world.sql(world.issuer.token("somebody-else"))).rows == []
    url = f"{world.node.server.url}/v1/api/auth/me"
    headers = {"Authorization": f"Bearer {token}"}
    async with world.node.http.get(url, headers=headers) as response:
        user = (await response.json())["user"]
    assert (user["id"], user["role"]) == ("pass.er-by_1@example.org", "user")
    assert user["email"] == "p@example.org"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm(world: World, algorithm: str) -> None:
    (key,) = (key for key in world.issuer.keys if key.key_id == f"of {algorithm}")
    assert (await world.sql(key.sign(world.issuer.claims("omar")))).status == 200


async def refreshed(world: World) -> None:
    """Until the server may fetch keys again for somebody it does not know."""
    asked = world.issuer.key_requests
    unknown = SigningKey("nobody-has-it", private=KEY.private)
    async with asyncio.timeout(float(REFRESH_S) + 5):
        while world.issuer.key_requests == asked:
            await world.sql(unknown.sign(world.issuer.claims("omar")))


def now() -> int:
    return int(time.time())


WRONG: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "another-client"},
    "audiences without ours": {"aud": ["a", "b"]},
    "no audience": {"aud": ...},
    "another issuer": {"iss": "https://evil.example.org"},
    "ours": {"iss": "kalamdb"},
    "no issuer": {"iss": ...},
    "no expiry": {"exp": ...},
    "no issue time": {"iat": ...},
    "expired": {"exp": now() - 120},
    "lives too long": {"exp": now() + 40 * 86_400},
    "of the future": {"iat": now() + 3600},
    "not yet": {"nbf": now() + 3600},
    "expiry of another kind": {"exp": "tomorrow"},
    "subject of another kind": {"sub": ...},
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_claim_is_refused(world: World, kind: str) -> None:
    answer = await world.sql(world.issuer.token("omar", **WRONG[kind]))
    assert answer.status == 401, answer.body
    assert answer.code == ("TOKEN_EXPIRED" if kind == "expired" else "INVALID_CREDENTIALS")


@pytest.mark.parametrize(
    "subject",
    [
        "root",
        "ROOT",
        "system",
        "Anonymous",
        "../etc",
        "a..b",
        "a/b",
        "",
        " a",
        "ü",
        "x" * 129,
        "-a",
    ],
)
async def test_a_subject_that_can_be_no_user(world: World, subject: str) -> None:
    answer = await world.sql(world.issuer.token(subject))
    assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")


async def test_a_user_with_a_password_is_not_the_issuers(world: World) -> None:
    await world.node.root.ok("CREATE USER 'inner' WITH INTERNAL ROLE user")
    other = '{"issuer": "https://another.example.org", "subject": "elsewhere"}'
    await world.node.root.ok(f"CREATE USER elsewhere WITH OIDC '{other}' ROLE user")
    for name in ("paul", "inner", "elsewhere"):
        answer = await world.sql(world.issuer.token(name))
        assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS"), name


async def test_a_role_comes_from_the_stored_user_only(world: World) -> None:
    claimed = {"role": "system", "token_type": "access", "epoch": 1}
    passing = await world.sql(world.issuer.token("climber", **claimed), "DROP USER paul")
    assert (passing.status, passing.code) == (403, "PERMISSION_DENIED")
    stored = await world.sql(world.issuer.token("olga"), "CREATE NAMESPACE of_olga")
    assert stored.status == 200


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def forged(world: World, kind: str) -> str:
    key = world.issuer.keys[-1]
    claims = world.issuer.claims("olga")
    public = key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    good = key.sign(claims)
    match kind:
        case "signed with the public key as a secret":
            # No library makes such a token.
            text = f"{part({'alg': 'HS256', 'kid': key.key_id})}.{part(claims)}"
            mac = hmac.new(public, text.encode(), hashlib.sha256).digest()
            return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
        case "no algorithm":
            return jwt.encode(
                claims, cast(Any, None), algorithm="none", headers={"kid": key.key_id}
            )
        case "no signature":
            return good[: good.rindex(".") + 1]
        case "another key under this id":
            return SigningKey(key.key_id).sign(claims)
        case "another type of key under this id":
            return SigningKey(key.key_id, "ES256").sign(claims)
        case "an algorithm the key is not for":
            return SigningKey(key.key_id, "RS512", key.private).sign(claims)
        case "a key of its own inside":
            mine = SigningKey("mine")
            return mine.sign(claims, jwk=mine.jwk, jku="http://127.0.0.1:1/", kid="mine")
        case "critical extensions":
            return key.sign(claims, crit=["b64"], b64=True)
        case "a logout token":
            return key.sign(claims, typ="logout+jwt")
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "signed with the public key as a secret",
        "no algorithm",
        "no signature",
        "another key under this id",
        "another type of key under this id",
        "an algorithm the key is not for",
        "a key of its own inside",
        "critical extensions",
        "a logout token",
    ],
)
async def test_a_forged_token_opens_nothing(world: World, kind: str) -> None:
    answer = await world.sql(forged(world, kind))
    assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")


# ---- keys ---------------------------------------------------------------------------------------


async def test_made_up_key_ids_do_not_reach_the_issuer(world: World) -> None:
    await refreshed(world)
    before = world.issuer.key_requests
    started = time.monotonic()
    tokens = [SigningKey(f"made-up-{n}", private=KEY.private) for n in range(50)]
    answers = [await world.sql(key.sign(world.issuer.claims("omar"))) for key in tokens]
    assert {answer.status for answer in answers} == {401}
    spaced = (time.monotonic() - started) / 5 + 2
    assert world.issuer.key_requests - before <= spaced


async def test_rotation_lets_the_new_key_in_and_the_old_one_out(world: World) -> None:
    old = world.issuer.keys
    old_token = world.issuer.token("omar")
    assert (await world.sql(old_token)).status == 200
    await refreshed(world)
    world.issuer.keys = [*old, SigningKey("next")]
    await refreshed(world)
    new_token = world.issuer.token("omar")
    assert (await world.sql(new_token)).status == 200
    assert (await world.sql(old_token)).status == 200, "both are in the set"
    async with live(Client(world.node.http, world.node.server.url, old_token)) as they:
        world.issuer.keys = [world.issuer.keys[-1]]
        code, frames = await they.closed(float(REFRESH_S) + 8)
        assert (code, frames[-1]["type"]) == (1008, "auth_error")
    assert (await world.sql(old_token)).status == 401, "cached tokens go with their key"
    assert (await world.sql(new_token)).status == 200
    world.issuer.keys = old
    await refreshed(world)
    assert (await world.sql(world.issuer.token("omar"))).status == 200


async def test_an_issuer_that_fails_takes_no_key_away(world: World) -> None:
    await refreshed(world)
    world.issuer.broken = True
    try:
        await refreshed(world)
        assert (await world.sql(world.issuer.token("omar"))).status == 200
    finally:
        world.issuer.broken = False
    assert "Traceback" not in world.node.server.log.read_text()


# ---- live connections ---------------------------------------------------------------------------


async def test_a_socket_signs_in_with_a_token_of_a_new_key(world: World) -> None:
    before = world.issuer.keys
    world.issuer.keys = [*before, SigningKey("for-sockets")]
    await refreshed(world)
    client = Client(world.node.http, world.node.server.url, world.issuer.token("omar"))
    async with live(client) as they:
        assert await they.snapshot("n", "SELECT id FROM app.notes", {}) == []
    world.issuer.keys = before


async def closed_by(they: Live) -> tuple[int | None, str]:
    code, frames = await they.closed(6)
    return code, frames[-1]["type"]


async def test_dropping_and_signing_out_end_outside_tokens_too(world: World) -> None:
    root = world.node.root
    identity = f'{{"issuer": "{world.issuer.url}", "subject": "gone"}}'
    await root.ok(f"CREATE USER gone WITH OIDC '{identity}' ROLE service")
    token = world.issuer.token("gone")
    client = Client(world.node.http, world.node.server.url, token)
    async with live(client) as they:
        await they.snapshot("n", "SELECT id FROM app.notes", {})
        await root.ok("ALTER USER gone SET ROLE user")
        assert await closed_by(they) == (1008, "auth_error")
    assert (await client.sql("SELECT id FROM app.notes")).status == 200, "now with role user"
    status, _ = await world.post("logout", None, Authorization=f"Bearer {token}")
    assert status == 200
    assert (await client.sql("SELECT id FROM app.notes")).code == "INVALID_CREDENTIALS"
    later = world.issuer.token("gone", iat=now() + 2)
    assert (await world.sql(later)).status == 200, "who signs in again is let in"
    await root.ok("DROP USER gone")
    assert (await world.sql(later)).code == "INVALID_CREDENTIALS"
    assert (await world.sql(world.issuer.token("gone", iat=now() + 5))).status == 401, "not passing"


async def test_a_passing_user_can_sign_out(world: World) -> None:
    status, body = await world.post("oidc/exchange-token", {"token": world.issuer.token("brief")})
    assert status == 200
    ours = body["access_token"]
    assert (await world.sql(ours)).status == 200
    status, _ = await world.post("logout", None, Authorization=f"Bearer {ours}")
    assert status == 200
    assert (await world.sql(ours)).code == "INVALID_CREDENTIALS"
    refresh = body["refresh_token"]
    status, _ = await world.post("refresh", None, Authorization=f"Bearer {refresh}")
    assert status == 401
    assert (await world.sql(world.issuer.token("brief", iat=now() - 1))).status == 401
    assert (await world.sql(world.issuer.token("brief", iat=now() + 2))).status == 200


# ---- exchanges ----------------------------------------------------------------------------------


async def test_login_options(world: World) -> None:
    options = await world.options()
    assert options["local"] == {"enabled": True}
    oidc = options["oidc"]
    assert oidc["enabled"] is True
    assert oidc["issuer"] == world.issuer.url
    assert oidc["client_id"] == CLIENT
    assert oidc["authorization_endpoint"] == f"{world.issuer.url}/authorize"
    assert oidc["token_endpoint"] == f"{world.issuer.url}/token"
    assert oidc["scopes"] == ["openid", "email", "profile"]
    assert oidc["device_flow"]["broker_supported"] is True
    assert "secret" not in str(options)


async def test_a_code_becomes_our_tokens(world: World) -> None:
    body = {"code": "c1", "code_verifier": VERIFIER, "redirect_uri": PAGE, "nonce": "n1"}
    world.issuer.consent("c1", VERIFIER, PAGE, subject="olga", nonce="n1")
    status, done = await world.post("oidc/exchange-code", body)
    assert status == 200, done
    assert (done["user"]["id"], done["user"]["role"]) == ("olga", "dba")
    assert done["admin_ui_access"] is True
    assert (await world.sql(done["access_token"])).status == 200
    assert jwt.decode(done["access_token"], options={"verify_signature": False})["iss"] == "kalamdb"
    renewed, _ = await world.post("refresh", None, Authorization=f"Bearer {done['refresh_token']}")
    assert renewed == 200
    assert (await world.post("oidc/exchange-code", body))[0] == 401, "a code is good once"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"code_verifier": VERIFIER[::-1]}, 401),
        ({"code_verifier": "short"}, 400),
        ({"redirect_uri": "https://evil.example.org"}, 401),
        ({"nonce": "another"}, 401),
        ({"code": "unknown"}, 401),
        ({"code": 7}, 400),
        ({"nonce": "n" * 4097}, 400),
        ({"x": 1}, 400),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
async def test_a_refused_exchange(world: World, changes: dict[str, Any], status: int) -> None:
    world.issuer.consent("c2", VERIFIER, PAGE, subject="olga", nonce="n1")
    body = {"code": "c2", "code_verifier": VERIFIER, "redirect_uri": PAGE, "nonce": "n1"}
    found, said = await world.post("oidc/exchange-code", {**body, **changes})
    assert found == status, said
    assert "access_token" not in said


async def test_an_id_token_of_another_client_is_refused(world: World) -> None:
    for number, claims in enumerate(({"aud": "other"}, {"azp": "other"})):
        world.issuer.consent(f"o{number}", VERIFIER, PAGE, subject="olga", **claims)
        body = {"code": f"o{number}", "code_verifier": VERIFIER, "redirect_uri": PAGE}
        assert (await world.post("oidc/exchange-code", body))[0] == 401


async def test_a_device_signs_in(world: World) -> None:
    status, begun = await world.post("oidc/device/start", {})
    assert status == 200
    assert {"device_code", "user_code", "verification_uri", "expires_in", "interval"} <= set(begun)
    poll = {"device_code": begun["device_code"]}
    assert await world.post("oidc/device/poll", poll) == (202, {"status": "pending"})
    world.issuer.devices[begun["device_code"]] = {"subject": "omar"}
    status, done = await world.post("oidc/device/poll", poll)
    assert (status, done["user"]["id"]) == (200, "omar")
    assert (await world.post("oidc/device/poll", {"device_code": "no"}))[0] == 401


async def test_refused_sign_ins_do_not_lead_to_a_local_user(world: World) -> None:
    status, said = await world.post("oidc/exchange-token", {"token": world.issuer.token("paul")})
    assert (status, said["error"]) == (401, "unauthorized")
    status, _ = await world.post("oidc/exchange-token", {"token": world.node.root.token})
    assert status == 401, "ours is no token of the issuer"


async def test_an_outside_user_has_no_password(world: World) -> None:
    answer = await world.node.root.sql(f"ALTER USER omar SET PASSWORD '{ROOT_PASSWORD}'")
    assert (answer.status, answer.code) == (400, "SQL_EXECUTION_ERROR")
    status, _ = await world.post("login", {"user": "omar", "password": ""})
    assert status == 401


async def test_the_log_has_no_error(world: World) -> None:
    """Stands last: nothing above was a bug that hid behind a right status."""
    said = world.node.server.log.read_text()
    assert '"level":"error"' not in said, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
    assert SECRET not in said
