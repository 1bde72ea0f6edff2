"""Chromium before a node's page, and what it must never do there.

Keeps: a visit ends with no console error, no exception, no violation of the content policy and no
request beyond the node's origin; statuses that a test expects are named by it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    async_playwright,
    expect,
)

from tests.e2e.server import ROOT_PASSWORD

MISSING = (
    "the page is tested in a real browser and there is none: run `apt-get install chromium` "
    "(`make test` does it for root), or put chromium on the PATH"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1360, "height": 860}
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
WAIT_MS = 10_000
_STATUS = re.compile(r"the server responded with a status of (\d{3})")

expect.set_options(timeout=WAIT_MS)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Raises AssertionError when there is no browser: without one the page is not tested."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, MISSING
    # No sandbox inside containers that run as root; the page is our own.
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=flags)
        yield browser
        await browser.close()


@dataclass(slots=True)
class Visit:
    """One browser profile with the page open."""

    page: Page
    origin: str
    expected: set[int] = field(default_factory=set[int])
    # While the node is down on purpose.
    away: bool = False
    faults: list[str] = field(default_factory=list[str])

    def watch(self) -> None:
        self.page.on("console", lambda message: self._said(message))
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("response", lambda response: self._went(response.url))
        self.page.on("websocket", lambda socket: self._went(socket.url))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        status = _STATUS.search(message.text)
        if status and int(status[1]) in self.expected:
            return
        if self.away and ("WebSocket connection" in message.text or "ERR_CON" in message.text):
            return
        self.faults.append(f"console: {message.text}")

    def _went(self, url: str) -> None:
        if url.partition("://")[2].partition("/")[0] != self.origin.partition("://")[2]:
            self.faults.append(f"request beyond the origin: {url}")

    async def check(self) -> None:
        violations = await self.page.evaluate("window.violations")
        assert not violations, violations
        assert not self.faults, self.faults

    async def begin(self) -> None:
        """As after a reload in a new tab; the cookie stays."""
        self.expected, self.away, self.faults = set(), False, []
        await self.page.evaluate("sessionStorage.clear()")
        await self.page.goto(self.origin)

    # ---- what a user does ----------------------------------------------------------------------

    async def sign_in(self, user: str = "root", password: str = ROOT_PASSWORD) -> None:
        await self.page.get_by_label("User").fill(user)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Sign in").click()

    async def write(self, sql: str) -> None:
        """Replace what stands in the editor."""
        await self.editor.click()
        await self.page.keyboard.press("Control+A")
        await self.page.keyboard.press("Delete")
        await self.page.keyboard.insert_text(sql)

    async def run(self, sql: str, keys: str = "Control+Enter") -> None:
        await self.write(sql)
        await self.page.keyboard.press(keys)

    @property
    def editor(self) -> Locator:
        return self.page.get_by_label("SQL editor")

    @property
    def rows(self) -> Locator:
        return self.page.locator(".grid-row:not(.is-leaving)")

    def row(self, text: str) -> Locator:
        return self.rows.filter(has_text=text)

    @property
    def live_state(self) -> Locator:
        return self.page.get_by_test_id("live-state")

    async def live(self, on: bool = True) -> None:
        await self.page.locator(".switch").click()
        await expect(self.page.get_by_role("switch", name="Live")).to_be_checked(checked=on)


@contextlib.asynccontextmanager
async def visiting(browser: Browser, url: str, theme: str = "light") -> AsyncIterator[Visit]:
    context = await browser.new_context(
        viewport={"width": DESKTOP["width"], "height": DESKTOP["height"]},
        color_scheme="dark" if theme == "dark" else "light",
    )
    context.set_default_timeout(WAIT_MS)
    await context.add_init_script(WATCH)
    visit = Visit(await context.new_page(), url)
    visit.watch()
    await visit.page.goto(url)
    try:
        yield visit
        await visit.check()
    finally:
        await context.close()


# ---- pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """What a PNG of 8-bit colours shows, without a library for it."""

    width: int
    height: int
    colours: int
    brightness: float
    """Mean of all samples, 0 to 255."""


def picture_of(png: bytes) -> Picture:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed, head = 8, bytearray(), b""
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            head = body
        elif kind == b"IDAT":
            packed += body
        at += length + 12
    width, height, depth, colour = struct.unpack_from(">IIBB", head)
    assert depth == 8
    samples = {2: 3, 6: 4}[colour]
    lines = _lines(zlib.decompress(bytes(packed)), width * samples, samples)
    pixels = [line[x : x + 3] for line in lines for x in range(0, width * samples, samples)]
    total = sum(sum(pixel) for pixel in pixels)
    return Picture(width, height, len(set(pixels)), total / len(pixels) / 3)


def _lines(raw: bytes, stride: int, samples: int) -> list[bytes]:
    """The rows of pixels, the filters of PNG undone."""
    lines: list[bytes] = []
    above = bytes(stride)
    for start in range(0, len(raw), stride + 1):
        line = bytearray(raw[start + 1 : start + 1 + stride])
        for x in range(stride):
            left = line[x - samples] if x >= samples else 0
            corner = above[x - samples] if x >= samples else 0
            match raw[start]:
                case 0:
                    break
                case 1:
                    guess = left
                case 2:
                    guess = above[x]
                case 3:
                    guess = (left + above[x]) // 2
                case _:
                    guess = _paeth(left, above[x], corner)
            line[x] = (line[x] + guess) & 255
        above = bytes(line)
        lines.append(above)
    return lines


def _paeth(left: int, above: int, corner: int) -> int:
    base = left + above - corner
    return min((left, above, corner), key=lambda each: abs(base - each))


def save(png: bytes, path: Path) -> None:
    path.write_bytes(png)
