"""The page at `/`: files that were built beforehand, served from memory.

1. `load` reads `kalamdb/edge/http/ui`, all of it, and packs what gets smaller.
2. `routes` gives one route for each file. An address that is no file's is no route, so that no path
   is ever joined to a directory.
3. The index is asked for again each time and answered 304 by its ETag. Assets carry a digest of
   their content in their names and are kept for a year.

Keeps: nothing comes from another origin, no script or style stands in the HTML, no text becomes
HTML (Trusted Types without a policy), no other page may frame this one. The files know nobody's
rows: everything a user sees is asked for with the user's token.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web

from kalamdb.edge.http.cors import Handler

BUILD = Path(__file__).with_name("ui")
INDEX = "index.html"
ASSETS_PATH = "/ui/assets/"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_EVERY = {
    "Server": "KalamDB",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
# Names without a digest of their content.
_RENEWED = frozenset({INDEX, "LICENSES.txt"})
_ASKED_AGAIN = "no-cache"
_KEPT = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file: its bytes, as gzip when that is smaller, and what every answer with it says."""

    body: bytes
    packed: bytes | None
    etag: str
    headers: Mapping[str, str]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {**self.headers, "ETag": self.etag}
        if _has(request, self.etag):
            return web.Response(status=304, headers=headers)
        if self.packed is not None and _takes_gzip(request):
            headers["Content-Encoding"] = "gzip"
            return web.Response(body=self.packed, headers=headers)
        return web.Response(body=self.body, headers=headers)


@cache
def load(build: Path = BUILD) -> Mapping[str, PageFile]:
    """Name → file, read once in the life of a process.

    Raises: OSError when the build is missing.
    """
    names = sorted(path.name for path in build.iterdir() if path.suffix in _TYPES)
    return {name: _read(build / name) for name in names}


def routes(files: Mapping[str, PageFile]) -> Iterator[tuple[str, str, Handler]]:
    """(method, path, handler)."""
    yield "GET", "/", files[INDEX].answer
    yield "GET", "/ui", _to_page
    yield "GET", "/ui/", _to_page
    for name, file in files.items():
        if name != INDEX:
            yield "GET", ASSETS_PATH + name, file.answer


async def _to_page(_: web.Request) -> web.StreamResponse:
    headers = {**_EVERY, "Location": "/", "Cache-Control": _ASKED_AGAIN}
    return web.Response(status=302, headers=headers)


def _read(path: Path) -> PageFile:
    body = path.read_bytes()
    packed = gzip.compress(body, mtime=0)
    headers = {
        **_EVERY,
        "Content-Type": _TYPES[path.suffix],
        "Cache-Control": _ASKED_AGAIN if path.name in _RENEWED else _KEPT,
    }
    smaller = len(packed) < 0.95 * len(body)  # fonts are packed already
    if smaller:
        headers["Vary"] = "Accept-Encoding"
    # Weak: the packed body is the same page in other bytes.
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    return PageFile(body, packed if smaller else None, etag, headers)


def _has(request: web.Request, etag: str) -> bool:
    said = request.headers.get("If-None-Match", "")
    return any(each.strip() in (etag, "*") for each in said.split(","))


def _takes_gzip(request: web.Request) -> bool:
    """Is gzip named without being refused by `q=0`?"""
    for part in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "").rstrip("0").rstrip(".") not in ("q=", "q=0")
    return False
