"""The page's cookies: who may use them, and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.contract import Node, one_node
from tests.e2e.server import ROOT_PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRIEND = "https://app.example.org"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    env = {"KALAMDB_HTTP_CORS_ORIGINS": FRIEND}
    async with one_node(tmp_path_factory.mktemp("cookies") / "data", env) as node:
        yield node


@dataclass
class Reply:
    status: int
    body: Any
    cookies: SimpleCookie


class Page:
    """A browser's page at `origin`, with the cookies it was given."""

    def __init__(self, node: Node, **headers: str) -> None:
        self.node = node
        self.headers = headers
        self.jar: dict[str, str] = {}

    @property
    def own(self) -> str:
        return self.node.server.url

    async def ask(
        self, name: str, body: Any = None, *, method: str = "POST", **headers: str
    ) -> Reply:
        sent = {"Content-Type": "application/json", **self.headers, **headers}
        if self.jar:
            sent["Cookie"] = "; ".join(f"{key}={value}" for key, value in self.jar.items())
        sent = {key.replace("_", "-"): value for key, value in sent.items() if value}
        url = f"{self.own}/v1/api/auth/{name}"
        async with self.node.http.request(method, url, json=body, headers=sent) as response:
            got = SimpleCookie()
            for line in response.headers.getall("Set-Cookie", []):
                got.load(line)
            return Reply(response.status, await response.json(), got)

    async def sign_in(self, user: str = "root") -> Reply:
        reply = await self.ask("login", {"user": user, "password": ROOT_PASSWORD})
        assert reply.status == 200, reply.body
        self.keep(reply)
        return reply

    def keep(self, reply: Reply) -> None:
        for name, cookie in reply.cookies.items():
            self.jar[name] = cookie.value


async def test_a_page_lives_by_its_cookie(node: Node) -> None:
    await node.user("anna")
    page = Page(node, Origin=node.server.url, Sec_Fetch_Site="same-origin")
    await page.sign_in("anna")
    renewed = await page.ask("refresh")
    assert renewed.status == 200, renewed.body
    assert renewed.body["user"]["id"] == "anna"
    page.keep(renewed)
    assert (await page.ask("me", method="GET")).body["user"]["id"] == "anna"
    out = await page.ask("logout")
    assert out.status == 200
    assert {name: cookie.value for name, cookie in out.cookies.items()} == {
        "kalamdb_auth": "",
        "kalamdb_refresh": "",
    }
    gone = await page.ask("refresh")
    assert (gone.status, gone.body["error"]) == (401, "unauthorized")
    assert all(cookie.value == "" for cookie in gone.cookies.values()), "and they are cleared"
    assert len(gone.cookies) == 2


STRANGERS = {
    "another site": {"Origin": "https://evil.example.org", "Sec_Fetch_Site": "cross-site"},
    "another site, old browser": {"Origin": "https://evil.example.org"},
    "a sister of the site": {"Origin": "{own}0", "Sec_Fetch_Site": "same-site"},
    "a sandbox": {"Origin": "null", "Sec_Fetch_Site": "cross-site"},
    "no page at all": {},
    "typed in": {"Sec_Fetch_Site": "none"},
    "a name that only begins alike": {"Origin": f"{FRIEND}.evil.example.org"},
}


@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("name", ["refresh", "logout"])
async def test_another_page_cannot_use_the_cookie(node: Node, who: str, name: str) -> None:
    page = Page(node, Origin=node.server.url)
    await page.sign_in()
    page.headers = {key: value.format(own=node.server.url) for key, value in STRANGERS[who].items()}
    refused = await page.ask(name)
    assert (refused.status, refused.body["error"]) == (403, "forbidden")
    assert not refused.cookies
    page.headers = {"Origin": node.server.url}
    assert (await page.ask("refresh")).status == 200, "nothing was ended"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "{own}"},
        {"Origin": "{own}", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Origin": FRIEND, "Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
async def test_own_pages_and_named_friends_can(node: Node, headers: dict[str, str]) -> None:
    page = Page(node, Origin=node.server.url)
    await page.sign_in()
    page.headers = {key: value.format(own=node.server.url) for key, value in headers.items()}
    assert (await page.ask("refresh")).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
async def test_a_form_cannot_use_the_cookie(node: Node, kind: str) -> None:
    page = Page(node, Origin=node.server.url)
    await page.sign_in()
    for name in ("refresh", "logout"):
        refused = await page.ask(name, Content_Type=kind)
        assert (refused.status, refused.body["error"]) == (400, "invalid_input")


async def test_https_behind_a_trusted_proxy(node: Node) -> None:
    own = node.server.url.replace("http://", "https://")
    page = Page(node, Origin=own, X_Forwarded_Proto="https", X_Forwarded_For="203.0.113.5")
    reply = await page.sign_in()
    assert all(cookie["secure"] for cookie in reply.cookies.values())
    assert (await page.ask("refresh")).status == 200
    page.headers["Origin"] = node.server.url
    assert (await page.ask("refresh")).status == 403, "http is another origin than https"


async def test_a_stranger_who_signs_in_gets_no_cookies(node: Node) -> None:
    page = Page(node, Origin="https://evil.example.org")
    reply = await page.sign_in()
    assert not reply.cookies, "it could make the user somebody else"
    page = Page(node, Origin=FRIEND)
    assert len((await page.sign_in()).cookies) == 2
    plain = await Page(node).ask("login", {"user": "root", "password": ROOT_PASSWORD})
    assert len(plain.cookies) == 2


async def test_a_header_goes_before_a_cookie_and_needs_no_origin(node: Node) -> None:
    page = Page(node, Origin="https://evil.example.org")
    tokens = (await page.sign_in()).body
    page.jar["kalamdb_refresh"] = "nonsense"
    reply = await page.ask("refresh", Authorization=f"Bearer {tokens['refresh_token']}")
    assert reply.status == 200


async def test_sql_takes_no_cookie(node: Node) -> None:
    page = Page(node, Origin=node.server.url, Sec_Fetch_Site="same-origin")
    await page.sign_in()
    cookie = "; ".join(f"{key}={value}" for key, value in page.jar.items())
    headers = {"Cookie": cookie, "Origin": node.server.url}
    url = f"{node.server.url}/v1/api/sql"
    async with node.http.post(url, json={"sql": "SELECT 1"}, headers=headers) as response:
        assert response.status == 401


async def test_logout_by_the_refresh_cookie_alone(node: Node) -> None:
    user = await node.user("late")
    page = Page(node, Origin=node.server.url)
    await page.sign_in("late")
    del page.jar["kalamdb_auth"]  # it ran out
    assert (await page.ask("logout")).status == 200
    assert (await user.sql("SELECT 1")).status == 401


async def test_preflights(node: Node) -> None:
    url = f"{node.server.url}/v1/api/auth/refresh"
    for origin, status in ((FRIEND, 204), ("https://evil.example.org", 403)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with node.http.options(url, headers=headers) as response:
            assert response.status == status
            allowed = response.headers.get("Access-Control-Allow-Origin")
            assert allowed == (origin if status == 204 else None)
            credentials = response.headers.get("Access-Control-Allow-Credentials")
            assert credentials == ("true" if status == 204 else None)
