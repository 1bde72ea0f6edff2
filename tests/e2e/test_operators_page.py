"""`docs/operate/one-node.md` on a real node: its metrics are told, its statements run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.contract import Node, one_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/operate/one-node.md").read_text(encoding="utf-8")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with one_node(tmp_path_factory.mktemp("operate") / "data") as node:
        yield node


async def test_metrics_of_the_page_are_told(node: Node) -> None:
    async with node.http.get(f"{node.server.url}/metrics") as answer:
        told = set(re.findall(r"^# TYPE (\w+)", await answer.text(), re.MULTILINE))
    wanted = set(re.findall(r"`((?:kalamdb|process)_\w+)`", PAGE))
    assert len(wanted) > 10
    assert not wanted - told


async def test_statements_of_the_page_run(node: Node) -> None:
    questions = PAGE.partition("## At three in the morning")[2].partition("\n## ")[0]
    statements = re.findall(r"`((?:SHOW|SELECT) [^`…]*)`", questions)
    assert len(statements) > 8
    for statement in statements:
        await node.root.ok(statement)
