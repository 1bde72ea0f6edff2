"""The page at `/` in a real browser: what a user does there, and what must never happen.

Each visit fails on console errors, violations of the content policy and requests to other origins:
see tests/e2e/browser.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.e2e.browser import DESKTOP, Visit, chromium, picture_of, save, visiting
from tests.e2e.contract import Node, one_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALL = "SELECT * FROM chat.messages"
HOSTILE = '<img src=x onerror="alert(1)"><b>bold</b>'
MANY = 3_000
DRAWN_ROWS_MAX = 80

TABLES = """
CREATE NAMESPACE chat;
CREATE USER TABLE chat.messages (
    id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), room TEXT NOT NULL, author TEXT NOT NULL,
    body TEXT, tokens INT, meta JSON, sent TIMESTAMP DEFAULT NOW());
CREATE SHARED TABLE chat.rooms (name TEXT PRIMARY KEY, title TEXT NOT NULL)
    WITH (ACCESS_LEVEL = 'public');
CREATE STREAM TABLE chat.presence (who TEXT PRIMARY KEY, typing BOOLEAN) WITH (TTL_SECONDS = 60);
CREATE NAMESPACE shop;
CREATE USER TABLE shop.orders (
    id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), item TEXT NOT NULL, price DECIMAL(10, 2));
CREATE USER TABLE shop.counted (id INT PRIMARY KEY, n INT)
"""
MESSAGES: list[tuple[int, str, str, str | None, int | None, Any]] = [
    (9007199254740993, "tea", "anna", "the kettle is on", 12, None),
    (9007199254740994, "tea", "omar", "two minutes, finishing the review", 18, {"client": "web"}),
    (
        *(9007199254740995, "tea", "agent"),
        *("80 °C for green tea, 95 °C for black.", 241),
        {"model": "small-2", "tools": ["search", "units"], "cost": {"in": 812, "out": 241}},
    ),
    (9007199254740996, "ops", "agent", "deploy 4f1c2 finished in 48 s", 64, {"run": 4812}),
    (9007199254740997, "ops", "lena", "thanks, watching the graphs", 9, None),
    (9007199254740998, "ops", "agent", "p99 is back under 3 ms", 31, {"p99_ms": 2.7}),
    (9007199254740999, "tea", "anna", None, None, None),
]
NEW = "is there a cup left?"
PICTURED = """-- what each room has spent
SELECT room, sum(tokens) AS tokens FROM chat.messages GROUP BY room;

SELECT id, author, body, tokens, meta, sent
FROM chat.messages
WHERE tokens IS NOT NULL OR room = 'tea'"""
INSERT = "INSERT INTO chat.messages (id, room, author, body, tokens, meta) VALUES "


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with one_node(tmp_path_factory.mktemp("page") / "data") as node:
        await node.root.ok(TABLES)
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def signed_in(node: Node, browser: Browser) -> AsyncIterator[Visit]:
    async with visiting(browser, node.server.url) as visit:
        await visit.sign_in()
        await expect(visit.editor).to_be_visible()
        yield visit


@pytest_asyncio.fixture(loop_scope="module")
async def visit(node: Node, signed_in: Visit) -> AsyncIterator[Visit]:
    """The page of root, as after a reload, with the messages as they are above."""
    await fill(node)
    visit = signed_in
    await visit.begin()
    await expect(visit.page.get_by_role("treeitem").first).to_be_visible()
    await expect(visit.editor).to_be_visible()
    yield visit
    await visit.check()


async def fill(node: Node) -> None:
    await node.root.ok("DELETE FROM chat.messages WHERE true")
    places = [f"({', '.join(f'${at + n}' for n in range(6))})" for at in range(1, 43, 6)]
    assert len(places) == len(MESSAGES)
    await node.root.ok(INSERT + ", ".join(places), [value for row in MESSAGES for value in row])


# ---- the door -----------------------------------------------------------------------------------


async def test_signing_in_and_out(node: Node, browser: Browser) -> None:
    async with visiting(browser, node.server.url) as visit:
        page = visit.page
        visit.expected = {401}
        await node.user("guest", "dba")
        await visit.sign_in("guest", "not the password")
        await expect(page.get_by_role("alert")).to_contain_text("password")
        await page.get_by_text("First time here?").click()
        await expect(page.get_by_text("KALAMDB_ROOT_PASSWORD")).to_be_visible()
        await visit.sign_in("guest")
        await expect(page.get_by_role("treeitem").first).to_be_visible()
        await expect(page.locator(".who")).to_contain_text("guest")

        kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert "eyJ" not in kept, "a token was kept where scripts can read it"
        assert "eyJ" not in await page.evaluate("document.cookie")

        await page.reload()
        await expect(page.get_by_role("treeitem").first).to_be_visible()

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("button", name="Sign in")).to_be_visible()


# ---- tables, completion, history ----------------------------------------------------------------


async def test_the_tree_shows_tables_and_queries_them(visit: Visit) -> None:
    tree = visit.page.get_by_role("tree")
    for label in ("user table chat.messages", "shared table chat.rooms"):
        await expect(tree.get_by_label(label)).to_be_visible()
    await expect(tree.get_by_label("stream table chat.presence")).to_be_visible()
    messages = tree.get_by_label("user table chat.messages")
    await messages.focus()
    await visit.page.keyboard.press("ArrowRight")
    await expect(tree.get_by_label("column id BIGINT, primary key")).to_be_visible()
    await visit.page.keyboard.press("ArrowLeft")
    await expect(tree.get_by_label("column id BIGINT, primary key")).to_have_count(0)
    await visit.page.get_by_label("Search tables and columns").fill("price")
    await expect(tree.get_by_label("column price DECIMAL(10,2)")).to_be_visible()
    await expect(messages).to_have_count(0)
    await visit.page.get_by_label("Search tables and columns").fill("")
    await messages.click()
    await expect(visit.rows).to_have_count(len(MESSAGES))
    await expect(visit.editor).to_contain_text("SELECT * FROM chat.messages LIMIT 200")
    await visit.page.get_by_role("tab", name="History").click()
    await expect(visit.page.locator(".past")).to_contain_text("SELECT * FROM chat.messages")


async def test_completion_offers_tables_and_columns(visit: Visit) -> None:
    page = visit.page
    offered = page.locator(".cm-tooltip-autocomplete li")
    await visit.write("")
    await page.keyboard.type("SELECT * FROM mess")
    await expect(offered.first).to_contain_text("chat.messages")
    await offered.first.click()
    await page.keyboard.type(" m WHERE m.tok")
    await expect(offered.first).to_contain_text("tokens")
    await offered.first.click()
    await expect(visit.editor).to_contain_text("SELECT * FROM chat.messages m WHERE m.tokens")
    await visit.write("")
    await page.keyboard.type("create us")
    await expect(offered.first).to_contain_text("CREATE USER")


async def test_a_new_table_is_listed_at_once(visit: Visit, node: Node) -> None:
    await visit.run("CREATE USER TABLE shop.later (id INT PRIMARY KEY)")
    await expect(visit.page.get_by_role("tree").get_by_label("shop.later")).to_be_visible()
    await visit.run("DROP TABLE shop.later")
    await expect(visit.page.get_by_role("tree").get_by_label("shop.later")).to_have_count(0)


# ---- rows and errors ----------------------------------------------------------------------------


async def test_rows_of_every_type(visit: Visit) -> None:
    await visit.run(f"{ALL} ORDER BY id")
    await expect(visit.rows).to_have_count(len(MESSAGES))
    await expect(visit.page.get_by_test_id("status")).to_contain_text(f"{len(MESSAGES)} rows")
    await expect(visit.page.get_by_test_id("status")).to_contain_text("ms")
    await expect(visit.rows.first).to_contain_text("9007199254740993")
    await expect(visit.rows.last.get_by_text("NULL", exact=True).first).to_be_visible()
    await visit.row("green tea").get_by_text("80 °C").click()
    await visit.page.keyboard.press("Enter")
    row = visit.page.get_by_role("complementary", name="The chosen row")
    await expect(row).to_contain_text('model: "small-2"')
    await expect(row).to_contain_text('0: "search"')
    await visit.page.keyboard.press("Escape")
    await expect(row).to_have_count(0)
    await visit.page.get_by_role("columnheader", name="tokens").click()
    await expect(visit.rows.first).to_contain_text("lena")
    await visit.page.get_by_role("columnheader", name="tokens").click()
    await expect(visit.rows.nth(1)).to_contain_text("green tea")


async def test_text_never_becomes_html(visit: Visit, node: Node) -> None:
    await node.root.ok(INSERT + "($1, $2, $3, $4, 1, NULL)", [1, "x", HOSTILE, HOSTILE])
    await visit.run(f'SELECT id, body AS "{"<i>name</i>"}" FROM chat.messages WHERE id = 1')
    await expect(visit.rows).to_have_count(1)
    await expect(visit.rows.first).to_contain_text(HOSTILE)
    await visit.rows.first.get_by_text(HOSTILE).dblclick()
    row = visit.page.get_by_role("complementary", name="The chosen row")
    await expect(row).to_contain_text(HOSTILE)
    made = visit.page.locator("img, #page b:has-text('bold'), #page i:text('name')")
    assert await made.count() == 0


async def test_many_rows_are_drawn_as_they_come_in_sight(visit: Visit, node: Node) -> None:
    values = ", ".join(f"({n}, {n * n % 1000})" for n in range(MANY))
    await node.root.ok("DELETE FROM shop.counted WHERE true")
    await node.root.ok(f"INSERT INTO shop.counted VALUES {values}")
    await visit.run("SELECT id, n FROM shop.counted ORDER BY id")
    await expect(visit.page.get_by_test_id("status")).to_contain_text(f"{MANY:,} rows")
    assert await visit.rows.count() < DRAWN_ROWS_MAX
    await visit.page.get_by_role("grid").focus()
    await visit.page.keyboard.press("Control+End")
    await visit.page.keyboard.press("Control+End")
    last = visit.page.locator(f"[aria-rowindex='{MANY + 1}']")
    await expect(last).to_contain_text(str(MANY - 1))
    assert await visit.rows.count() < DRAWN_ROWS_MAX


async def test_only_the_statement_at_the_cursor_runs(visit: Visit) -> None:
    text = "SELECT 1 AS one;\n\nSELECT 2 AS two;\n\nSELECT 3 AS three;"
    await visit.write(text)
    await visit.page.keyboard.press("ArrowUp")
    await visit.page.keyboard.press("ArrowUp")
    await visit.page.keyboard.press("Control+Enter")
    await expect(visit.page.get_by_role("columnheader")).to_contain_text(["two"])
    await visit.page.keyboard.press("Control+Shift+Enter")
    await expect(visit.page.get_by_role("tab", name="rows")).to_have_count(3)


async def test_an_error_says_where_and_what_to_do(visit: Visit) -> None:
    visit.expected = {400}
    fault = visit.page.get_by_test_id("fault")
    await visit.run("SELECT 1;\n\nSELECT id\nFROM chat.messages WHERE id = = 3")
    await expect(fault).to_contain_text("syntax error")
    await expect(fault).to_contain_text("INVALID_SQL")
    await expect(fault).to_contain_text("line 2")
    mark = visit.page.locator(".cm-fault")
    await expect(mark).to_have_text("=")
    await visit.run("SELECT * FROM chat.nothing")
    await expect(fault).to_contain_text("chat.nothing does not exist")
    await expect(fault).to_contain_text("42P01")
    await expect(fault).to_contain_text("list on the left")
    await expect(mark).to_have_count(0)


# ---- live ---------------------------------------------------------------------------------------


async def test_live_rows_change_in_place(visit: Visit, node: Node) -> None:
    await visit.run(ALL)
    await expect(visit.rows).to_have_count(len(MESSAGES))
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    await node.root.ok(INSERT + "(77, 'tea', 'zoe', 'somebody else wrote this', 1, NULL)")
    row = visit.row("somebody else wrote this")
    await expect(row).to_be_visible()
    await expect(row).to_have_class("grid-row is-new ")
    await row.evaluate("(row) => { row.marked = true }")

    await node.root.ok("UPDATE chat.messages SET body = 'and changed it' WHERE id = 77")
    changed = visit.row("and changed it")
    await expect(changed).to_be_visible()
    assert await changed.evaluate("(row) => row.marked"), "the row was drawn anew"
    await expect(changed.locator(".is-changed")).to_have_text("and changed it")
    await expect(visit.rows).to_have_count(len(MESSAGES) + 1)

    await node.root.ok("DELETE FROM chat.messages WHERE id = 77")
    await expect(changed).to_have_count(0)
    await expect(visit.rows).to_have_count(len(MESSAGES))
    await expect(visit.page.get_by_test_id("status")).to_contain_text("+1~1−1")
    await visit.live(False)
    await expect(visit.live_state).to_have_text("stopped")


async def test_writing_beside_a_live_query(visit: Visit) -> None:
    visit.expected = {400}
    await visit.run(f"{ALL} WHERE room = 'tea'")
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    await visit.run(f"{INSERT} (78, 'tea', 'root', 'from this page', 1, NULL)")
    await expect(visit.row("from this page")).to_be_visible()
    await visit.run("UPDATE chat.messages SET room = 'ops' WHERE id = 78")
    await expect(visit.row("from this page")).to_have_count(0)
    await visit.run("INSERT INTO chat.messages (nothing) VALUES (1)")
    await expect(visit.page.get_by_test_id("fault")).to_contain_text("nothing")
    await expect(visit.live_state).to_have_text("live")


async def test_a_query_without_its_key_is_live_too(visit: Visit, node: Node) -> None:
    await visit.run("SELECT author FROM chat.messages WHERE room = 'ops'")
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    await expect(visit.rows).to_have_count(3)
    await node.root.ok("DELETE FROM chat.messages WHERE id = 9007199254740996")
    await expect(visit.rows).to_have_count(2)
    await node.root.ok("UPDATE chat.messages SET author = 'max' WHERE id = 9007199254740998")
    await expect(visit.row("max")).to_be_visible()
    await expect(visit.row("agent")).to_have_count(0)
    await expect(visit.rows).to_have_count(2)


async def test_sums_are_live_too(visit: Visit, node: Node) -> None:
    await visit.run("SELECT room, count(*) AS messages FROM chat.messages GROUP BY room")
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    tea = visit.row("tea")
    await expect(tea).to_contain_text("4")
    await tea.evaluate("(row) => { row.marked = true }")
    await node.root.ok(INSERT + "(82, 'tea', 'zoe', 'one more', 1, NULL)")
    await expect(tea.locator(".is-changed")).to_have_text("5")
    assert await tea.evaluate("(row) => row.marked"), "the row was drawn anew"
    await node.root.ok("DELETE FROM chat.messages WHERE room = 'ops'")
    await expect(visit.rows).to_have_count(1)


async def test_a_count_is_one_row_that_changes(visit: Visit, node: Node) -> None:
    await visit.run("SELECT count(*) AS messages FROM chat.messages")
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    await expect(visit.rows).to_contain_text([str(len(MESSAGES))])
    await visit.rows.evaluate("(row) => { row.marked = true }")
    await node.root.ok("DELETE FROM chat.messages WHERE room = 'ops'")
    await expect(visit.rows.locator(".is-changed")).to_have_text("4")
    assert await visit.rows.evaluate("(row) => row.marked"), "all rows were taken anew"


async def test_the_first_rows_stay_the_first(visit: Visit, node: Node) -> None:
    await visit.run(
        "SELECT author, tokens FROM chat.messages WHERE tokens > 0 ORDER BY tokens DESC LIMIT 3"
    )
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    numbers = visit.page.locator(".grid-row:not(.is-leaving) .grid-cell.as-number")
    await expect(numbers).to_have_text(["241", "64", "31"])
    await node.root.ok(INSERT + "(83, 'tea', 'zoe', 'long', 100, NULL)")
    await expect(numbers).to_have_text(["241", "100", "64"])
    await node.root.ok("UPDATE chat.messages SET tokens = 300 WHERE id = 83")
    await expect(numbers).to_have_text(["300", "241", "64"])
    await node.root.ok("DELETE FROM chat.messages WHERE id = 83")
    await expect(numbers).to_have_text(["241", "64", "31"])


async def test_live_goes_on_after_the_node_was_away(visit: Visit, node: Node) -> None:
    await visit.run(ALL)
    await visit.live()
    await expect(visit.live_state).to_have_text("live")
    await node.root.ok(INSERT + "(80, 'tea', 'zoe', 'before the break', 1, NULL)")
    await expect(visit.row("before the break")).to_be_visible()
    visit.away = True
    node.server.kill()
    await expect(visit.live_state).to_contain_text("cut off")
    await expect(visit.rows).to_have_count(len(MESSAGES) + 1)
    await node.server.start()
    await node.root.ok("DELETE FROM chat.messages WHERE id = 80")
    await node.root.ok(INSERT + "(81, 'tea', 'zoe', 'after the break', 1, NULL)")
    await expect(visit.live_state).to_have_text("live", timeout=30_000)
    await expect(visit.row("after the break")).to_be_visible()
    await expect(visit.row("before the break")).to_have_count(0)
    # Counted on: what was missed came as changes, not as all rows anew.
    await expect(visit.page.get_by_test_id("status")).to_contain_text("+2~0−1")


# ---- looks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_looks(
    node: Node, browser: Browser, theme: str, request: pytest.FixtureRequest
) -> None:
    await fill(node)
    async with visiting(browser, node.server.url, theme) as visit:
        page = visit.page
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await visit.sign_in()
        await page.get_by_role("tree").get_by_label("user table chat.messages").focus()
        await page.keyboard.press("ArrowRight")
        await visit.run(PICTURED)
        await expect(visit.rows).to_have_count(len(MESSAGES))
        await visit.live()
        await expect(visit.live_state).to_have_text("live")
        await node.root.ok("UPDATE chat.messages SET tokens = 20 WHERE author = 'omar'")
        await node.root.ok(f"{INSERT} (9007199254741000, 'tea', 'zoe', '{NEW}', 11, NULL)")
        await expect(visit.row(NEW)).to_be_visible()
        await expect(visit.page.locator(".is-changed")).to_have_text("20")
        await page.evaluate("document.fonts.ready")
        whole = await page.screenshot()
        assert (picture_size(whole)) == (DESKTOP["width"], DESKTOP["height"])
        corner = picture_of(
            await page.screenshot(clip={"x": 0, "y": 0, "width": 300, "height": 200})
        )
        assert corner.colours > 50, "blank"
        assert corner.brightness > 200 if theme == "light" else corner.brightness < 60
        loaded = await page.evaluate("[...document.fonts].map((f) => f.status).join()")
        assert loaded.startswith("loaded")
        if request.config.getoption("--save-screenshots", default=False):
            save(whole, DOCS / f"page-{theme}.png")
        nameless = await page.evaluate(NAMELESS)
        assert nameless == []
        await page.set_viewport_size({"width": 390, "height": 780})
        await expect(page.get_by_role("switch", name="Live")).to_be_attached()
        wide = await page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, "it does not fit on a telephone"
        await page.get_by_role("button", name="explorer").click()
        await page.get_by_role("tree").get_by_label("shared table chat.rooms").click()
        await expect(page.get_by_role("tree")).to_be_hidden()
        await expect(visit.live_state).to_be_visible()


NAMELESS = """
() => [...document.querySelectorAll("button, input, [role=tab], [role=treeitem], [role=grid]")]
  .filter((each) => !each.ariaLabel && !each.textContent.trim() && !each.closest("label"))
  .map((each) => each.outerHTML.slice(0, 120))
"""


def picture_size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


async def test_the_page_can_be_off(tmp_path: Path) -> None:
    async with (
        one_node(tmp_path / "data", {"KALAMDB_HTTP_PAGE": "false"}) as node,
        node.http.get(node.server.url + "/") as response,
    ):
        assert response.status == 404
        assert json.loads(await response.read())["error"] == "NOT_FOUND"
