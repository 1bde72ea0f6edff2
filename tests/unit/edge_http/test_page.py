"""The page's files: that the build belongs to the sources, and what is said with each answer."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from yarl import URL

from kalamdb.edge.http import page
from tests.unit.edge_http.world import World, changed, opened

pytestmark = pytest.mark.usefixtures("each_front")

SOURCES = Path(__file__).resolve().parents[3] / "ui"
PACKED_MAX_BYTES = 400_000
BEFORE_SIGN_IN_MAX_BYTES = 40_000
# What `ui/build.mjs` reads beside `ui/src`.
RECIPE = ("build.mjs", "package.json", "package-lock.json", "tsconfig.json")


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    async with opened() as made:
        yield made


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sources_digest(folder: Path) -> str:
    """The same as in `ui/build.mjs`."""
    inner = [path for path in (folder / "src").rglob("*") if path.is_file()]
    names = sorted([*(str(path.relative_to(folder)) for path in inner), *RECIPE])
    lines = [f"{name} {sha256((folder / name).read_bytes())}\n" for name in names]
    return sha256("".join(lines).encode())


def test_the_build_is_of_these_sources() -> None:
    manifest = json.loads((page.BUILD / "manifest.json").read_text())
    assert manifest["sources"] == sources_digest(SOURCES), "other sources: run `make page`"
    built = {path.name: sha256(path.read_bytes()) for path in page.BUILD.iterdir()}
    del built["manifest.json"]
    assert manifest["files"] == built, "a built file was changed by hand: run `make page`"


def test_other_sources_have_another_digest(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in (*RECIPE, "src/main.tsx"):
        (tmp_path / name).write_text("one")
    first = sources_digest(tmp_path)
    (tmp_path / "src/main.tsx").write_text("other")
    assert sources_digest(tmp_path) != first


def test_the_page_is_small_and_whole() -> None:
    files = page.load()
    sizes = {name: len(file.packed or file.body) for name, file in files.items()}
    assert sum(sizes.values()) < PACKED_MAX_BYTES
    first = [name for name in files if name.startswith(("app-", "chunk-", "index"))]
    assert sum(sizes[name] for name in first) < BEFORE_SIGN_IN_MAX_BYTES
    named = re.findall(rb'"(/[^"]+)"', files[page.INDEX].body)
    assert len(named) >= 4
    for address in named:
        assert address.decode().removeprefix(page.ASSETS_PATH) in files


def test_the_page_is_from_nowhere_else() -> None:
    index = page.load()[page.INDEX].body.decode()
    assert "://" not in index
    assert not re.search(r"<script(?![^>]*\ssrc=)", index), "an inline script"
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", index), "an inline style or handler"
    for name, file in page.load().items():
        if name.endswith(".css"):
            assert b"://" not in file.body


async def test_the_index(world: World) -> None:
    response = await world.http.get("/", headers={"Accept-Encoding": "identity"})
    assert response.status == 200
    assert response.content_type == "text/html"
    assert response.headers["Cache-Control"] == "no-cache"
    assert await response.read() == page.load()[page.INDEX].body
    parts = response.headers["Content-Security-Policy"].split("; ")
    policy = {name: rest for name, _, rest in (part.partition(" ") for part in parts)}
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("name", sorted(page.load()))
async def test_each_file(world: World, name: str) -> None:
    path = "/" if name == page.INDEX else page.ASSETS_PATH + name
    file = page.load()[name]
    plain = await world.http.get(path, headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "Content-Encoding" not in plain.headers
    assert await plain.read() == file.body
    packed = await world.http.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert (packed.headers.get("Content-Encoding") == "gzip") is (file.packed is not None)
    assert await packed.read() == file.body  # the client unpacks
    if file.packed is not None:
        assert gzip.decompress(file.packed) == file.body
        assert "Accept-Encoding" in plain.headers["Vary"]
    if re.search(r"-[A-Z0-9]{8}\.", name):
        assert "immutable" in plain.headers["Cache-Control"]
    head = await world.http.head(path, headers={"Accept-Encoding": "identity"})
    assert (head.status, await head.read()) == (200, b"")
    assert head.headers["Content-Length"] == str(len(file.body))
    etag = plain.headers["ETag"]
    again = await world.http.get(path, headers={"If-None-Match": f'"other", {etag}'})
    assert (again.status, await again.read()) == (304, b"")
    assert "Content-Security-Policy" in again.headers


async def test_ui_leads_to_the_page(world: World) -> None:
    for path in ("/ui", "/ui/"):
        response = await world.http.get(path, allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (302, "/")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/assets/",
        "/ui/assets/index.html",
        "/ui/assets/manifest.json",
        "/ui/assets/../page.py",
        "/ui/assets/..%2fpage.py",
        "/ui/assets/%2e%2e/page.py",
        "/ui/assets//etc/passwd",
        "/index.html",
    ],
)
async def test_nothing_else_is_there(world: World, path: str) -> None:
    response = await world.http.get(URL(path, encoded=True), allow_redirects=False)
    assert response.status == 404
    assert (await response.json())["error"] == "NOT_FOUND"


async def test_the_page_is_only_read(world: World) -> None:
    response = await world.http.post("/", data=b"x")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_the_page_can_be_off() -> None:
    async with opened(changed("http", page=False)) as world:
        for path in ("/", "/ui", page.ASSETS_PATH + sorted(page.load())[0]):
            response = await world.http.get(path, allow_redirects=False)
            assert response.status == 404
