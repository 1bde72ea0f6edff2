"""Who may sign in, with what, and for how long."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.contract import CHEAP_HASHES, Node, live, one_node
from tests.e2e.server import JWT_SECRET, ROOT_PASSWORD, Answer, Client, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOCKOUT_S = 1
ENDED_WITHIN_S = 5.0
HASTY = {"KALAMDB_WEBSOCKET_HEARTBEAT_INTERVAL_S": "0.2"}
ROLES = ("user", "service", "dba", "system")
NEW_PASSWORD = "a-second-long-password-17"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    env = {"KALAMDB_AUTH_LOCKOUT_S": str(LOCKOUT_S), **HASTY}
    async with one_node(tmp_path_factory.mktemp("auth") / "data", env) as node:
        await node.root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        for role in ROLES:
            await node.user(f"a-{role}", role)
        yield node


class Reply:
    """One answer of /v1/api/auth."""

    def __init__(self, status: int, body: Any, headers: Any) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def word(self) -> tuple[int, str]:
        assert set(self.body) >= {"error", "message"}, self.body
        assert self.body["message"]
        return self.status, self.body["error"]

    @property
    def cookies(self) -> SimpleCookie:
        made = SimpleCookie()
        for line in self.headers.getall("Set-Cookie", []):
            made.load(line)
        return made


async def ask(
    node: Node,
    name: str,
    body: Any = None,
    *,
    token: str = "",
    cookie: str = "",
    method: str = "POST",
) -> Reply:
    headers: dict[str, str] = {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if cookie:
        own = {"Origin": node.server.url, "Content-Type": "application/json"}
        headers |= {"Cookie": cookie, **own}
    url = f"{node.server.url}/v1/api/auth/{name}"
    async with node.http.request(method, url, json=body, headers=headers) as response:
        return Reply(response.status, await response.json(), response.headers)


async def sign_in(node: Node, user: str, password: str = ROOT_PASSWORD) -> Reply:
    return await ask(node, "login", {"user": user, "password": password})


async def with_token(node: Node, token: str) -> Answer:
    return await Client(node.http, node.server.url, token).sql(
        "SELECT id FROM app.notes WHERE id = 1"
    )


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def signed(
    token: str, *, secret: str = JWT_SECRET, algorithm: str = "HS256", **changes: Any
) -> str:
    """The token with other claims. A library of tokens would refuse to make most of these."""
    text = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part({**claims(token), **changes})}"
    digest = f"sha{algorithm.removeprefix('HS')}"
    mac = hmac.new(secret.encode(), text.encode(), digest).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


# ---- login --------------------------------------------------------------------------------------


async def test_login_answers_with_all_of_this(node: Node) -> None:
    reply = await sign_in(node, "root")
    assert reply.status == 200
    body = reply.body
    assert set(body) == {
        *("user", "admin_ui_access", "access_token", "expires_at", "refresh_token"),
        "refresh_expires_at",
    }
    assert set(body["user"]) == {"id", "role", "email", "created_at", "updated_at"}
    assert (body["user"]["id"], body["user"]["role"]) == ("root", "system")
    assert body["admin_ui_access"] is True
    access, refresh = claims(body["access_token"]), claims(body["refresh_token"])
    assert (access["sub"], access["role"], access["token_type"]) == ("root", "system", "access")
    assert refresh["token_type"] == "refresh"
    assert access["exp"] - access["iat"] == 86_400
    assert refresh["exp"] - refresh["iat"] == 7 * 86_400
    header = body["access_token"].split(".")[0]
    assert claims(f".{header}.")["alg"] == "HS256"
    assert (await sign_in(node, "a-user")).body["admin_ui_access"] is False
    other = await ask(node, "login", {"username": "root", "password": ROOT_PASSWORD})
    assert other.status == 200
    assert "password" not in str(body).lower()


async def test_login_sets_two_cookies(node: Node) -> None:
    reply = await sign_in(node, "a-user")
    cookies = reply.cookies
    assert set(cookies) == {"kalamdb_auth", "kalamdb_refresh"}
    for cookie in cookies.values():
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert cookie["path"] == "/"
        assert cookie["expires"] or cookie["max-age"]
        assert not cookie["secure"], "the request came by http"
    assert cookies["kalamdb_auth"].value == reply.body["access_token"]
    assert cookies["kalamdb_refresh"].value == reply.body["refresh_token"]
    headers = {"X-Forwarded-Proto": "https"}
    url = f"{node.server.url}/v1/api/auth/login"
    said = {"user": "a-user", "password": ROOT_PASSWORD}
    async with node.http.post(url, json=said, headers=headers) as response:
        lines = response.headers.getall("Set-Cookie")
    assert all("secure" in line.lower() for line in lines)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"user": "root", "password": "wrong-password-here"}, (401, "unauthorized")),
        ({"user": "nobody-at-all", "password": ROOT_PASSWORD}, (401, "unauthorized")),
        ({"user": "root", "password": ""}, (401, "unauthorized")),
        ({"user": "", "password": ROOT_PASSWORD}, (401, "unauthorized")),
        ({"user": "a'; --", "password": "x\0y"}, (401, "unauthorized")),
        ({}, (400, "invalid_input")),
        ([], (400, "invalid_input")),
        ({"user": "root"}, (400, "invalid_input")),
        ({"password": "x"}, (400, "invalid_input")),
        ({"user": 1, "password": "x"}, (400, "invalid_input")),
        ({"user": "root", "password": None}, (400, "invalid_input")),
        ({"user": "root", "password": ROOT_PASSWORD, "x": 1}, (400, "invalid_input")),
        ({"user": "root", "username": "root", "password": "x"}, (400, "invalid_input")),
    ],
)
async def test_a_refused_login(node: Node, body: Any, word: tuple[int, str]) -> None:
    reply = await ask(node, "login", body)
    status, said = reply.word
    assert (status, said) == word or (word[0] == 401 and said == "invalid_input" and status == 400)
    assert "Set-Cookie" not in reply.headers
    assert (await sign_in(node, "root")).status == 200


@pytest.mark.parametrize(("user", "password"), [("x" * 129, "y"), ("root", "y" * 2000)])
async def test_endless_names_and_passwords_are_refused(
    node: Node, user: str, password: str
) -> None:
    reply = await sign_in(node, user, password)
    assert reply.word in ((400, "invalid_input"), (401, "unauthorized"))
    assert (await sign_in(node, "root")).status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 5_000, b'{"user":"a","user":"b"}'])
async def test_a_login_that_is_no_json(node: Node, raw: bytes) -> None:
    for route in ("login", "setup"):
        url = f"{node.server.url}/v1/api/auth/{route}"
        headers = {"Content-Type": "application/json"}
        async with node.http.post(url, data=raw, headers=headers) as response:
            assert response.status == 400
            assert (await response.json())["error"] == "invalid_input"


@pytest.mark.parametrize("name", ["lock-me", "lock-nobody"])
async def test_five_wrong_passwords_lock_the_name_for_a_while(node: Node, name: str) -> None:
    if name == "lock-me":
        await node.user(name)
    for _ in range(5):
        assert (await sign_in(node, name, "wrong-password-here")).word == (401, "unauthorized")
    locked = await sign_in(node, name)
    assert locked.word == (401, "account_locked")
    assert int(locked.headers["Retry-After"]) >= 1
    if name == "lock-me":
        answers: list[int] = []
        started = time.monotonic()
        while 200 not in answers and time.monotonic() - started < LOCKOUT_S + 5:
            answers.append((await sign_in(node, name)).status)
        assert 200 in answers
        assert time.monotonic() - started > LOCKOUT_S * 0.5


async def test_a_success_forgets_the_failures(node: Node) -> None:
    await node.user("forgiven")
    for _ in range(3):
        for _ in range(4):
            assert (await sign_in(node, "forgiven", "wrong-password-here")).status == 401
        assert (await sign_in(node, "forgiven")).status == 200


async def test_a_known_and_an_unknown_name_look_the_same(node: Node) -> None:
    await node.user("known")
    known = await sign_in(node, "known", "wrong-password-here")
    unknown = await sign_in(node, "unknown", "wrong-password-here")
    assert (known.status, known.body) == (unknown.status, unknown.body)


# ---- tokens -------------------------------------------------------------------------------------


def tampered(token: str) -> dict[str, tuple[str, str]]:
    now = int(time.time())
    head, payload, signature = token.split(".")
    none_head = part({"alg": "none", "typ": "JWT"})
    return {
        "alg none": (f"{none_head}.{payload}.", "INVALID_CREDENTIALS"),
        "alg none, signed": (f"{none_head}.{payload}.{signature}", "INVALID_CREDENTIALS"),
        "HS512": (signed(token, algorithm="HS512"), "INVALID_CREDENTIALS"),
        "HS384": (signed(token, algorithm="HS384"), "INVALID_CREDENTIALS"),
        "wrong key": (signed(token, secret="x" * 40), "INVALID_CREDENTIALS"),
        "empty key": (signed(token, secret=""), "INVALID_CREDENTIALS"),
        "no signature": (f"{head}.{payload}.", "INVALID_CREDENTIALS"),
        "cut": (token[:-4], "INVALID_CREDENTIALS"),
        "another issuer": (signed(token, iss="evil"), "INVALID_CREDENTIALS"),
        "another role": (signed(token, role="system"), "INVALID_CREDENTIALS"),
        "another type": (signed(token, token_type="refresh"), "INVALID_CREDENTIALS"),
        "no type": (signed(token, token_type=None), "INVALID_CREDENTIALS"),
        "another epoch": (signed(token, epoch=999), "INVALID_CREDENTIALS"),
        "nobody": (signed(token, sub="nobody"), "INVALID_CREDENTIALS"),
        "sub of another kind": (signed(token, sub=None), "INVALID_CREDENTIALS"),
        "expired": (signed(token, exp=now - 62), "TOKEN_EXPIRED"),
        "expired long ago": (signed(token, exp=1), "TOKEN_EXPIRED"),
        "from the future": (signed(token, iat=now + 3600), "INVALID_CREDENTIALS"),
        "not before": (signed(token, nbf=now + 3600), "INVALID_CREDENTIALS"),
        "exp of another kind": (signed(token, exp=None), "INVALID_CREDENTIALS"),
        "huge exp": (signed(token, exp=10**30), "*"),
    }


KINDS = list(tampered(f"{part({})}.{part({})}.x"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tampered_token_opens_nothing(node: Node, kind: str) -> None:
    token, code = tampered(node.users["a-user"].token)[kind]
    answer = await with_token(node, token)
    if code == "*":
        assert answer.status in (200, 401)
        return
    assert (answer.status, answer.code) == (401, code)
    reply = await ask(node, "me", token=token, method="GET")
    assert reply.word == (401, "unauthorized")
    refresh = (await sign_in(node, "a-user")).body["refresh_token"]
    token, _ = tampered(refresh)[kind]
    if kind == "another type":
        token = signed(refresh, token_type="access")
    assert (await ask(node, "refresh", token=token)).word == (401, "unauthorized")


async def test_sixty_seconds_are_forgiven(node: Node) -> None:
    token = signed(node.users["a-user"].token, exp=int(time.time()) - 50)
    assert (await with_token(node, token)).status == 200


async def test_refresh_and_access_are_not_the_same(node: Node) -> None:
    body = (await sign_in(node, "a-user")).body
    access, refresh = body["access_token"], body["refresh_token"]
    answer = await with_token(node, refresh)
    assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")
    assert (await ask(node, "me", token=refresh, method="GET")).word == (401, "unauthorized")
    assert (await ask(node, "refresh", token=access)).word == (401, "unauthorized")
    cookie = f"kalamdb_auth={access}"
    assert (await ask(node, "refresh", cookie=cookie)).word == (401, "unauthorized")
    assert (await ask(node, "refresh")).word == (401, "unauthorized")
    for renewed in (
        await ask(node, "refresh", token=refresh),
        await ask(node, "refresh", cookie=f"kalamdb_refresh={refresh}"),
    ):
        assert renewed.status == 200
        assert set(renewed.body) == set(body)
        assert set(renewed.cookies) == {"kalamdb_auth", "kalamdb_refresh"}
        assert (await with_token(node, renewed.body["access_token"])).status == 200


async def test_me(node: Node) -> None:
    token = node.users["a-dba"].token
    for reply in (
        await ask(node, "me", token=token, method="GET"),
        await ask(node, "me", cookie=f"kalamdb_auth={token}", method="GET"),
    ):
        assert reply.status == 200
        assert reply.body["user"]["id"] == "a-dba"
        assert reply.body["admin_ui_access"] is True
    assert (await ask(node, "me", method="GET")).word == (401, "unauthorized")


async def test_a_cookie_alone_runs_no_sql(node: Node) -> None:
    headers = {"Cookie": f"kalamdb_auth={node.root.token}"}
    url = f"{node.server.url}/v1/api/sql"
    async with node.http.post(url, json={"sql": "SELECT 1"}, headers=headers) as response:
        assert response.status == 401


async def test_logout_ends_every_token_of_the_user(node: Node) -> None:
    user = await node.user("leaves")
    other = (await sign_in(node, "leaves")).body
    reply = await ask(node, "logout", token=user.token)
    assert reply.status == 200
    assert reply.body["message"]
    for cookie in reply.cookies.values():
        assert cookie.value == ""
    for token in (user.token, other["access_token"]):
        assert (await with_token(node, token)).code == "INVALID_CREDENTIALS"
    assert (await ask(node, "refresh", token=other["refresh_token"])).status == 401
    assert (await sign_in(node, "leaves")).status == 200


@pytest.mark.parametrize(
    "change",
    [
        "ALTER USER {name} SET ROLE service",
        f"ALTER USER {{name}} SET PASSWORD '{NEW_PASSWORD}'",
        "ALTER USER {name} SET EMAIL 'x@example.org'",
        "DROP USER {name}",
    ],
)
async def test_a_change_of_the_user_ends_its_tokens(node: Node, change: str) -> None:
    name = f"changed_{change.split()[-2].lower()}_{len(change)}"
    user = await node.user(name)
    refresh = (await sign_in(node, name)).body["refresh_token"]
    assert (await with_token(node, user.token)).status == 200
    await node.root.ok(change.format(name=name))
    assert (await with_token(node, user.token)).code == "INVALID_CREDENTIALS"
    assert (await ask(node, "refresh", token=refresh)).status == 401
    assert (await ask(node, "me", token=user.token, method="GET")).status == 401
    if change.startswith("DROP"):
        assert (await sign_in(node, name)).word == (401, "unauthorized")
        again = f"CREATE USER {name} WITH PASSWORD '{ROOT_PASSWORD}' ROLE user"
        taken = await node.root.sql(again)
        assert (taken.status, taken.body["error"]["sqlstate"]) == (400, "42710")
        await node.root.ok(f"{again} REUSE DATA")
        assert (await with_token(node, user.token)).status == 401, "another user of the same name"


async def test_the_rows_of_a_dropped_user_are_not_inherited_by_accident(node: Node) -> None:
    first = await node.user("heir")
    await first.ok("INSERT INTO app.notes VALUES (1, 'of the first')")
    await node.root.ok("DROP USER heir")
    made = f"CREATE USER heir WITH PASSWORD '{NEW_PASSWORD}' ROLE user"
    for sql in (made, made.replace("USER heir", "USER IF NOT EXISTS heir")):
        refused = await node.root.sql(sql)
        assert (refused.status, refused.code) == (400, "SQL_EXECUTION_ERROR")
        assert "REUSE DATA" in refused.body["error"]["message"]
    await node.root.ok(f"{made} REUSE DATA")
    token = (await sign_in(node, "heir", NEW_PASSWORD)).body["access_token"]
    heir = Client(node.http, node.server.url, token)
    assert (await heir.ok("SELECT body FROM app.notes")).rows == [["of the first"]]


async def test_everybody_may_change_their_own_password(node: Node) -> None:
    user = await node.user("changer")
    for sql in (
        f"ALTER USER 'a-user' SET PASSWORD '{NEW_PASSWORD}'",
        "ALTER USER changer SET ROLE dba",
        "ALTER USER changer SET EMAIL 'x@example.org'",
        f"EXECUTE AS 'changer' (ALTER USER changer SET PASSWORD '{NEW_PASSWORD}')",
    ):
        assert (await user.sql(sql)).status in (400, 403), sql
    weak = await user.sql("ALTER USER changer SET PASSWORD 'short'")
    assert (weak.status, weak.body["error"]["sqlstate"]) == (400, "22023")
    too_long = await user.sql(f"ALTER USER changer SET PASSWORD '{'ü' * 37}'")
    assert too_long.status == 400, "72 bytes at most"
    await user.ok(f"ALTER USER changer SET PASSWORD '{NEW_PASSWORD}'")
    assert (await with_token(node, user.token)).code == "INVALID_CREDENTIALS"
    assert (await sign_in(node, "changer")).status == 401
    assert (await sign_in(node, "changer", NEW_PASSWORD)).status == 200


async def test_failing_for_another_locks_out_oneself(node: Node) -> None:
    await node.user("victim")
    url = f"{node.server.url}/v1/api/auth/login"
    thief = {"X-Forwarded-For": "203.0.113.66"}
    said = {"user": "victim", "password": "wrong-password-here"}
    for _ in range(5):
        async with node.http.post(url, json=said, headers=thief) as response:
            assert (await response.json())["error"] == "unauthorized"
    async with node.http.post(url, json=said, headers=thief) as response:
        body = await response.json()
        assert (response.status, body["error"]) == (401, "account_locked")
        assert "1 minute" in body["message"]
    assert (await sign_in(node, "victim")).status == 200


# ---- rights that end while connected ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("live-dropped", "DROP USER 'live-dropped'"),
        ("live-promoted", "ALTER USER 'live-promoted' SET ROLE service"),
        ("live-password", "ALTER USER 'live-password' SET PASSWORD 'another-long-password-1'"),
        ("live-leaving", "logout"),
    ],
)
async def test_lost_rights_end_the_connection(node: Node, name: str, change: str) -> None:
    user = await node.user(name)
    async with live(user) as they:
        await they.snapshot("m", "SELECT id FROM app.notes", {})
        if change == "logout":
            assert (await ask(node, "logout", token=user.token)).status == 200
        else:
            await node.root.ok(change)
        code, frames = await they.closed(ENDED_WITHIN_S + 1)
        assert (code, frames[-1]["type"]) == (1008, "auth_error")


# ---- the first user -----------------------------------------------------------------------------


async def test_setup_on_a_server_that_has_a_root_is_over(node: Node) -> None:
    status = await ask(node, "status", method="GET")
    assert status.status == 200
    assert status.body["needs_setup"] is False
    body = {"user": "late", "password": "a-long-password-17", "root_password": "a-long-password-18"}
    assert (await ask(node, "setup", body)).word == (409, "already_configured")
    assert (await sign_in(node, "late", "a-long-password-17")).status == 401


async def test_setup_from_elsewhere_is_forbidden(node: Node) -> None:
    for name, method in (("status", "GET"), ("setup", "POST")):
        url = f"{node.server.url}/v1/api/auth/{name}"
        headers = {"X-Forwarded-For": "203.0.113.9"}
        said = {"user": "x", "password": "y", "root_password": "z"}
        async with node.http.request(method, url, json=said, headers=headers) as response:
            assert response.status == 403
            assert (await response.json())["error"] == "forbidden"


SETUP = {"user": "first", "password": "a-long-password-17", "root_password": "a-long-password-18"}
REFUSED_SETUPS = [
    ({"password": "short"}, (400, "weak_password")),
    ({"root_password": "password1"}, (400, "weak_password")),
    ({"user": "root"}, (400, "invalid_user")),
    ({"user": "../etc"}, (400, "invalid_user")),
    ({"user": ""}, (400, "invalid_user")),
    ({"user": "x" * 200}, (400, "invalid_user")),
    ({"x": 1}, (400, "invalid_input")),
    ({"password": 7}, (400, "invalid_input")),
]


async def test_setup_makes_the_first_user_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("setup") / "data"
    server = Server(data, {**CHEAP_HASHES, "KALAMDB_AUTH_MAKE_ROOT_PASSWORD": "false"})
    del server._env["KALAMDB_ROOT_PASSWORD"]
    await server.start()
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            node = Node(server, http, Client(http, server.url, ""))
            assert (await ask(node, "status", method="GET")).body["needs_setup"] is True
            assert (await sign_in(node, "root", "")).word == (428, "setup_required")
            assert (await sign_in(node, "root", "anything-at-all")).status == 401
            for changes, word in REFUSED_SETUPS:
                assert (await ask(node, "setup", {**SETUP, **changes})).word == word, changes
            made = await ask(node, "setup", {**SETUP, "email": "first@example.org"})
            assert (made.status, "access_token" in made.body) == (200, False)
            assert "Set-Cookie" not in made.headers
            assert (await ask(node, "setup", SETUP)).word == (409, "already_configured")
            assert (await ask(node, "status", method="GET")).body["needs_setup"] is False
            first = await sign_in(node, "first", SETUP["password"])
            assert (first.body["user"]["role"], first.body["user"]["email"]) == (
                "dba",
                "first@example.org",
            )
            assert (await sign_in(node, "root", SETUP["root_password"])).status == 200
    finally:
        server.kill()


async def test_limits_of_rate_answer_429(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {
        "KALAMDB_RATE_LIMIT_ENABLED": "true",
        "KALAMDB_RATE_LIMIT_AUTH_PER_IP_PER_S": "1",
        "KALAMDB_RATE_LIMIT_QUERIES_PER_USER_PER_S": "5",
    }
    async with one_node(tmp_path_factory.mktemp("rates") / "data", env) as node:
        answers = [await node.root.sql("SHOW NAMESPACES") for _ in range(30)]
        refused = [answer for answer in answers if answer.status != 200]
        assert {(answer.status, answer.code) for answer in refused} == {
            (429, "RATE_LIMIT_EXCEEDED")
        }
        assert len(answers) - len(refused) >= 5
        url = f"{node.server.url}/v1/api/sql"
        for _ in range(20):
            headers = {"Authorization": "Bearer x.y.z"}
            async with node.http.post(url, json={"sql": "SELECT 1"}, headers=headers) as response:
                status, after = response.status, response.headers.get("Retry-After")
        assert (status, int(after or 0) >= 1) == (429, True)
        reply = await sign_in(node, "root")
        assert reply.word == (429, "rate_limited")
        assert int(reply.headers["Retry-After"]) >= 1
        headers = {"X-Forwarded-For": "203.0.113.7"}
        said = {"user": "root", "password": ROOT_PASSWORD}
        url = f"{node.server.url}/v1/api/auth/login"
        async with node.http.post(url, json=said, headers=headers) as response:
            assert response.status == 200, "another address has its own measure"


async def test_the_log_has_no_error(node: Node) -> None:
    """Stands last: nothing above was a bug that hid behind a right status."""
    said = node.server.log.read_text()
    assert '"level":"error"' not in said, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
