"""Runs a golden script and says what happened, in the script's own form.

A script is prose and steps. A step is lines that begin with `> `, then `---`, then what the system
did:

    > alice: INSERT INTO app.notes VALUES ($1, 'x')
    > with [1]
    ---
    g1 put row app.notes/alice [1] S1 {1: 1, 2: 'x'}
    g1 put change insert S1 prev=S0
    ok 1 inserted S1

`root:` has role system, `service:` role service, everybody else role user. `with` gives parameters,
`in` the namespace, `id` the request id, `quiet` hides effects, `pass N` lets N seconds pass. `watch
NAME` makes the statement a live query whose frames are shown after each step (`last N`, `resume`,
`from SEQ`: how it begins); `unwatch NAME` ends it. `on NAME` sends the request over a connection of
that name, which keeps its transaction.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kalamdb.model.ids import GroupId
from kalamdb.model.principal import Principal, Role
from kalamdb.ports import LogEntry
from kalamdb.session.run import Conversation
from tests.golden.effects import Names, described
from tests.golden.watchers import Watcher, shown, watch
from tests.small_node import SmallNode, small_node

ROLES = {"root": Role.SYSTEM, "service": Role.SERVICE, "dba": Role.DBA}


@dataclass
class Step:
    """`prose` stands before it; `said` is what the script expects."""

    prose: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def read(text: str) -> tuple[list[Step], list[str]]:
    """Steps, and the prose after the last of them."""
    steps: list[Step] = []
    prose: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith("> "):
            prose.append(line)
            continue
        step = Step(prose, [line[2:]])
        prose = []
        for line in lines:
            if line == "---":
                break
            assert line.startswith("> "), f"a step goes on with '> ' until '---': {line!r}"
            step.asked.append(line[2:])
        for line in lines:
            if not line:
                break
            step.said.append(line)
        prose = [""]
        steps.append(step)
    return steps, prose


def write(steps: list[Step], after: list[str]) -> str:
    out: list[str] = []
    for step in steps:
        out += step.prose + [f"> {line}" for line in step.asked] + ["---"] + step.said
    return "\n".join(out + after).rstrip("\n") + "\n"


class Player:
    """Plays steps against one small node."""

    def __init__(self) -> None:
        self._names = Names()
        self._lines: list[str] = []
        self._applied: list[tuple[GroupId, LogEntry]] = []
        self._watchers: dict[str, Watcher] = {}
        self._talks: dict[str, Conversation] = {}

    def watch(self, group: GroupId, entry: LogEntry) -> None:
        self._applied.append((group, entry))

    async def play(self, steps: list[Step]) -> list[list[str]]:
        async with small_node(self.watch) as node:
            return [[line async for line in self._step(node, step)] for step in steps]

    async def _step(self, node: SmallNode, step: Step) -> AsyncIterator[str]:
        self._applied.clear()
        request: dict[str, Any] = {}
        quiet = False
        connection = None
        live: dict[str, str] = {}
        text: list[str] = []
        for line in step.asked:
            word, _, rest = line.partition(" ")
            match word:
                case "with":
                    request["params"] = json.loads(rest)
                case "in":
                    request["namespace"] = rest
                case "id":
                    request["request_id"] = rest
                case "pass":
                    node.clock.now_ms += int(float(rest) * 1000)
                case "quiet":
                    quiet = True
                case "on":
                    connection = rest
                case "watch" | "last" | "from" | "resume":
                    live[word] = rest
                case "unwatch":
                    subscription = self._watchers[rest].subscription
                    assert subscription is not None
                    subscription.close()
                case _:
                    text.append(line)
        if not text:
            return
        user, _, sql = "\n".join(text).partition(": ")
        if "watch" in live:
            node.clock.now_ms += 1
            name = live["watch"]
            watcher = self._watchers.setdefault(name, Watcher(name))
            refused = watch(node, watcher, user, sql, asked=live)
            if refused is not None:
                yield self._names.text(refused)
            for line in shown(watcher, self._names):
                yield line
            return
        role = ROLES.get(user, Role.USER)
        if connection is None:
            status, body = await node.sql(user, sql, role=role, **request)
        else:
            talk = self._talks.setdefault(connection, Conversation(Principal.of(user, role)))
            status, body = await node.talk(talk, sql, **request)
        if not quiet:
            for line in self._effects(node):
                yield line
        for line in self._answer(status, body):
            yield line
        for watcher in self._watchers.values():
            for line in shown(watcher, self._names):
                yield line

    def _effects(self, node: SmallNode) -> Iterator[str]:
        for group, entry in self._applied:
            for line in described(entry.payload, node.groups.catalog, self._names):
                yield f"g{group} {line}"

    def _answer(self, status: int, body: dict[str, Any]) -> Iterator[str]:
        if status != 200:
            error = body["error"]
            state = f" {error['sqlstate']}" if error.get("sqlstate") else ""
            yield f"error {status} {error['code']}{state}: {self._names.text(error['message'])}"
            return
        for result in body["results"]:
            yield from self._result(result)

    def _result(self, result: dict[str, Any]) -> Iterator[str]:
        if "rows" not in result:
            yield f"ok {self._names.text(result['message'])}"
            return
        names = [column["name"] for column in result["schema"]]
        yield self._names.text(f"{' | '.join(names)}   ({result['row_count']})")
        for row in result["rows"]:
            yield "  " + self._names.text(json.dumps(row, ensure_ascii=False))


async def play(path: Path, *, bless: bool = False) -> tuple[str, str]:
    """(what the script says, what happened), both as text; `bless` writes the latter."""
    text = path.read_text()
    steps, after = read(text)
    happened = await Player().play(steps)
    for step, lines in zip(steps, happened, strict=True):
        step.said = lines
    now = write(steps, after)
    if bless:
        path.write_text(now)
    return text, now
