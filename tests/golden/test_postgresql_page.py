"""`docs/reference/postgresql.md` is true: its examples are run on a node and answer what it says.

In a block of SQL a comment line below a statement says what it answers: rows as JSON, `ok`, or
`error SQLSTATE`. The lines `-- another` and `-- here` change to the second connection and back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from kalamdb.model.principal import Principal, Role
from kalamdb.session.run import Conversation
from tests.small_node import SmallNode, small_node

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/postgresql.md"
_BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONNECTIONS = ("here", "another")


@dataclass(frozen=True, slots=True)
class Example:
    sql: str
    connection: str
    answer: str


def examples(page: str) -> Iterator[Example]:
    """Raises ValueError for a statement without an answer, or an answer of an unknown form."""
    for block in _BLOCK.findall(page):
        connection, lines = "here", []
        for line in block.splitlines():
            if not line.startswith("--"):
                lines.append(line)
                continue
            said = line.removeprefix("--").strip()
            if said in _CONNECTIONS:
                connection = said
            elif re.match(r"ok$|error [0-9A-Z]{5}$|\[", said) and lines:
                yield Example("\n".join(lines), connection, said)
                lines = []
            else:
                raise ValueError(f"{line!r} answers nothing")
        if lines:
            raise ValueError(f"no answer to {lines}")


async def mistakes(node: SmallNode, page: str) -> list[str]:
    """What the page says and is not so."""
    principal = Principal.of("ann", Role.DBA)
    talks = {name: Conversation(principal) for name in _CONNECTIONS}
    found: list[str] = []
    for example in examples(page):
        talk = talks[example.connection]
        status, body = await node.talk(talk, example.sql)
        if status != 200:
            answer = f"error {body['error']['sqlstate']}"
        else:
            rows = body["results"][-1].get("rows")
            answer = "ok" if rows is None else orjson.dumps(rows).decode()
            if example.answer == "ok":
                answer = "ok"
        if answer != example.answer:
            detail = "" if status == 200 else f" ({body['error']['message']})"
            found.append(f"{example.sql}\n    says {example.answer}\n    is   {answer}{detail}")
    assert all(talk.transaction is None for talk in talks.values())
    return found


async def test_every_example_answers_what_the_page_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(list(examples(page))) > 80
    async with small_node() as node:
        found = await mistakes(node, page)
    assert not found, "\n".join(found)


async def test_a_page_that_is_wrong_is_noticed() -> None:
    page = "```sql\nSELECT 1;\n-- [[1]]\nSELECT 1;\n-- error 42601\nSELEC 1;\n-- ok\n```\n"
    async with small_node() as node:
        found = await mistakes(node, page)
    assert len(found) == 3


@pytest.mark.parametrize("block", ["SELECT 1;\n", "SELECT 1;\n-- perhaps\n", "-- ok\n"])
def test_an_example_without_an_answer_is_refused(block: str) -> None:
    with pytest.raises(ValueError, match="answer"):
        list(examples(f"```sql\n{block}```\n"))
