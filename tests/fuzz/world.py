"""One world of the fuzzer: a node, six users, some hundred statements, and what must hold of each.

1. A statement is drawn for one of the users, over the tables there are at this moment.
2. It is answered in time, with rows of the types they say, or with a refusal that has a known code.
3. What was refused wrote nothing.
4. Nothing that only another user wrote stands in the answer.
5. After the last one the bytes of the store must be whole (`invariants.py`), and a node opened on a
   copy of them gives the same answers.

A world is made from its seed alone: `python -m tests fuzz --seed N` shows it again. In every eighth
world four speak at once, so that definitions, writes, reads and transactions meet; 3 is not looked
at there, and a replay is only alike.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import orjson

from kalamdb.model import codec
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import GroupId
from kalamdb.model.keys import Family
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import Column, TableDef
from kalamdb.ports import LogEntry
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session.run import Conversation
from kalamdb.sql.alter_type import is_lossless
from kalamdb.store.memory import MemoryStore
from tests.fuzz import grammar, invariants
from tests.fuzz.grammar import MARKS, ROLES, SECRETIVE, Request
from tests.fuzz.shape import Wrong, check_answer
from tests.fuzz.speaker import Speaker
from tests.small_node import START_MS, SmallNode

STATEMENTS = 500
TIMEOUT_S = 30.0
DAY_MS = 86_400_000
DAYS = 20_000  # of different starts: what query workers keep of one world is not another's
LATER = re.compile(r"Statement (\d+) failed")
WAITS_MS = (0,) * 30 + (1, 5, 900, 4_000, 11_000)
# A definition that turns out not to fit the rows was begun and is undone: fences, the catalog's
# steps and the entries of an index are written, and nothing is left of them.
STEPS = frozenset((Family.FENCE, Family.CATALOG, Family.INDEX, Family.UNIQUE))
BUSY = frozenset((503, 504))
# Every so many worlds the users speak at the same time; who is first is up to the machine then.
EVERY_CROWDED, CROWD = 8, 4

# Whoever speaks over a connection, where transactions go on, and how often it breaks off.
CONNECTED, HANGS_UP = "carol", 0.05

Told = Callable[[int, Request, int, bytes], None]


class Broken(AssertionError):
    """A world that went wrong: where, and by what."""

    def __init__(self, seed: int, number: int, request: Request | None, why: str) -> None:
        super().__init__(seed, number, request, why)
        self.seed, self.number, self.request, self.why = seed, number, request, why

    def __str__(self) -> str:
        said = "" if self.request is None else f"\n  {self.request}"
        return f"seed {self.seed}, statement {self.number}: {self.why}{said}"


@dataclass
class Tally:
    """What was said and how it was answered."""

    asked: Counter[str] = field(default_factory=Counter[str])
    answered: Counter[str] = field(default_factory=Counter[str])
    codes: Counter[str] = field(default_factory=Counter[str])
    slowest_s: float = 0.0
    slowest: str = ""

    def add(self, other: Tally) -> None:
        self.asked += other.asked
        self.answered += other.answered
        self.codes += other.codes
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest


class World:
    """See the module."""

    def __init__(self, seed: int, pool: EnginePool, told: Told | None = None) -> None:
        self.seed = seed
        self.dice = Random(seed)
        self.crowded = seed % EVERY_CROWDED == EVERY_CROWDED - 1
        self.tally = Tally()
        self._told = told
        self._wrote: list[LogEntry] = []
        self.node = SmallNode(pool, self._written)
        self.node.clock.now_ms = START_MS + seed % DAYS * DAY_MS
        self._talk = Conversation(Principal.of(CONNECTED, ROLES[CONNECTED]))
        self._opened: dict[str, str] = {}
        self._ids: list[str] = []

    def _written(self, group: GroupId, entry: LogEntry) -> None:
        self._wrote.append(entry)

    async def run(self, statements: int = STATEMENTS) -> Tally:
        """Raises Broken."""
        try:
            await self._begin()
        except Exception as error:
            raise Broken(self.seed, 0, None, f"at the beginning: {error!r}") from error
        at_once = CROWD if self.crowded else 1
        for number in range(0, statements, at_once):
            self.node.clock.now_ms += self.dice.choice(WAITS_MS)
            if number % 50 < at_once:
                await self.node.transactions.sweep()
            requests = [
                grammar.request(self.dice, self._speaker, self._opened) for _ in range(at_once)
            ]
            await asyncio.gather(
                *(self._judged(number + nth, request) for nth, request in enumerate(requests))
            )
        try:
            await self._end()
        except Exception as error:
            raise Broken(self.seed, statements, None, f"at the end: {error!r}") from error
        return self.tally

    async def _judged(self, number: int, request: Request) -> None:
        try:
            await self._ask(number, request)
        except Exception as error:
            why = str(error) if isinstance(error, Wrong) else repr(error)
            raise Broken(self.seed, number, request, why) from error

    async def _begin(self) -> None:
        node = self.node
        await node.boot()
        await node.setup(*grammar.DDL)
        for user in ROLES:
            if user != "root":
                role = ROLES[user].value
                await node.setup(f"CREATE USER '{user}' WITH INTERNAL ROLE {role}")
            mark = MARKS[user]
            for sql in (
                f"INSERT INTO app.notes VALUES (1, '{mark}', 3, 'a'), (2, 'b', -7, NULL),"
                f" (3, NULL, 0, '{mark}'), (7, 'é', 2, 'x')",
                f"INSERT INTO app.pairs VALUES ('{mark}', 1, 0.5, 0), ('', 0, -1e300, NULL)",
                f"INSERT INTO app.logs VALUES ('{mark}', 1), ('a', 2)",
                f"INSERT INTO app.wide (id, t, b) VALUES (1, '{mark}', true), (2, 'a', NULL)",
                f"INSERT INTO app.typing VALUES ('a', '{mark}', 1)",
            ):
                await node.ok(user, sql, role=ROLES[user])

    def _speaker(self, user: str) -> Speaker:
        words = (MARKS[user],)
        others = tuple(one for one in ROLES if one != user)
        ids = [*self._opened.values(), *self._ids[-2:]]
        return Speaker(self.dice, self.node.groups.catalog, user, words, others, ids)

    # ---- one statement --------------------------------------------------------------------------

    async def _ask(self, number: int, request: Request) -> None:
        self._wrote.clear()
        before = self.node.groups.catalog
        started_s = time.perf_counter()
        async with asyncio.timeout(TIMEOUT_S):
            status, raw = await self._send(self.node, request)
        took_s = time.perf_counter() - started_s
        if self._told is not None:
            self._told(number, request, status, raw)
        self._count(request, status, took_s)
        body = orjson.loads(raw)
        check_answer(status, body, request.sql)
        if status == 200:
            self._follow(request, body)
        else:
            self.tally.codes[f"{status} {body['error']['code']}"] += 1
            if status in BUSY and "transaction was killed" not in body["error"]["message"]:
                raise Wrong(f"nobody else is there: {body['error']}")
            self._forget(request, body["error"]["message"])
            if not self.crowded:
                self._check_no_trace(body["error"]["message"], before)
        self._check_secrets(request, raw)

    async def _send(self, node: SmallNode, request: Request) -> tuple[int, bytes]:
        connected = request.user == CONNECTED and not self.crowded
        if connected and request.transaction is None and node is self.node:
            return await self._say(request)
        return await node.raw(
            request.user,
            request.sql,
            request.params,
            role=ROLES[request.user],
            namespace=request.namespace,
            request_id=request.request_id,
            transaction_id=request.transaction,
        )

    async def _say(self, request: Request) -> tuple[int, bytes]:
        """Over the one connection there is; a transaction may be open on it."""
        if self.dice.random() < HANGS_UP:
            self.node.session.hang_up(self._talk)
        status, body = await self.node.talk(
            self._talk, request.sql, request.params, request_id=request.request_id
        )
        if status == 200:
            body.pop("transaction_id", None)
        return status, orjson.dumps(body)

    def _count(self, request: Request, status: int, took_s: float) -> None:
        self.tally.asked[request.kind] += 1
        self.tally.answered[request.kind] += status == 200
        if took_s > self.tally.slowest_s:
            self.tally.slowest_s, self.tally.slowest = took_s, request.sql[:200]

    def _follow(self, request: Request, body: Any) -> None:
        """Remember the transaction that is open now, if any."""
        opened = body.get("transaction_id")
        if opened is not None:
            self._opened[request.user] = opened
            if opened not in self._ids:
                self._ids.append(opened)
        elif request.transaction == self._opened.get(request.user):
            self._opened.pop(request.user, None)

    def _forget(self, request: Request, message: str) -> None:
        """The transaction that has ended with this refusal, if any."""
        ended = request.sql.startswith("COMMIT") or "killed" in message
        if ended and request.transaction == self._opened.get(request.user, ""):
            del self._opened[request.user]

    def _check_no_trace(self, message: str, before: CatalogView) -> None:
        later = LATER.match(message)
        if later is not None and later[1] != "1":
            return  # the statements before it stay
        for entry in self._wrote:
            for command in codec.decode_entry(entry.payload).commands:
                families = {Family(key[0]) for key, _ in command.effects}
                if not families <= STEPS:
                    raise Wrong(f"it was refused ({message}) and wrote {sorted(families)}")
        now = self.node.groups.catalog
        if now is not before and defined(now) != defined(widened_as(before, now)):
            raise Wrong(f"it was refused ({message}) and defined something")

    def _check_secrets(self, request: Request, raw: bytes) -> None:
        allowed = may_reach_others(request)
        for user in SECRETIVE:
            if user != request.user and not allowed and MARKS[user].encode() in raw:
                raise Wrong(f"it shows what is {user}'s alone: {raw[:2000]!r}")

    # ---- the end --------------------------------------------------------------------------------

    async def _end(self) -> None:
        node = self.node
        node.session.hang_up(self._talk)
        for user, opened in self._opened.items():
            await node.raw(user, "ROLLBACK", role=ROLES[user], transaction_id=opened)
        invariants.check(node)
        stores = {group: copied(store) for group, store in node.stores.items()}
        again = SmallNode(node.pool, stores=stores)
        again.clock.now_ms = node.clock.now_ms
        again.ids = node.ids
        await again.boot()
        for request in self._last_looks():
            before, after = [await self._send(one, request) for one in (node, again)]
            if timeless(before) != timeless(after):
                raise Wrong(f"after it was opened again: {request.sql}: {before} {after}")
        invariants.check(again)

    def _last_looks(self) -> list[Request]:
        catalog = self.node.groups.catalog
        user = self.dice.choice(SECRETIVE)
        looks = [
            Request("root", "look", sql) for sql in ("SHOW TABLES", "SHOW INDEXES", "SHOW USERS")
        ]
        for table in catalog.tables.values():
            looks.append(Request("root", "look", f"SHOW CREATE TABLE {table.full_name}"))
            looks.append(Request("root", "look", f"SHOW STATS FOR TABLE {table.full_name}"))
            looks.append(Request(user, "look", f"SELECT * FROM {table.full_name} ORDER BY _seq"))
        for view in catalog.views.values():
            looks.append(Request(user, "look", f"SELECT count(*) FROM {view.full_name}"))
        return looks


def may_reach_others(request: Request) -> bool:
    """Is this a statement by which its speaker may see another's rows?"""
    role, said = ROLES[request.user], request.sql.upper()
    if role is Role.USER:
        return False
    reached = "EXECUTE" in said
    if role.at_least(Role.DBA):
        reached = reached or any(
            word in said for word in ("ALL_USERS", "SYSTEM", "SHOW", "APP.V", '"V')
        )
    return reached


def defined(catalog: CatalogView) -> list[Any]:
    """What there is, without the numbers that versions and ids have come to."""
    tables = {
        table.full_name: (table.columns, table.uniques, table.checks, table.options, table.indexes)
        for table in catalog.tables.values()
    }
    return [tables, catalog.pending, catalog.views, catalog.users, catalog.namespaces]


def widened_as(before: CatalogView, now: CatalogView) -> CatalogView:
    """`before`, with types that have been widened since: they stay so when the rest of their ALTER
    is undone, because rows may need them already (docs/reference/sql.md).
    """

    def column_as(column: Column, table: TableDef) -> Column:
        found = table.by_id.get(column.id)
        if found is None or not is_lossless(column.type, found.type):
            return column
        return replace(column, type=found.type)

    def table_as(table: TableDef) -> TableDef:
        found = now.tables_by_id.get(table.id)
        if found is None:
            return table
        return replace(table, columns=tuple(column_as(one, found) for one in table.columns))

    tables = {name: table_as(table) for name, table in before.tables.items()}
    return replace(before, tables=tables)


def copied(store: MemoryStore) -> MemoryStore:
    made = MemoryStore(store.group)
    made.replace(dict(store.scan(b"", b"\xff")), store.mark())
    return made


def timeless(answer: tuple[int, bytes]) -> tuple[int, Any]:
    """Without what a clock says, and without the cursor: a node that begins to lead writes."""
    status, raw = answer
    body = orjson.loads(raw)
    body.pop("took", None)
    for result in body["results"]:
        result.pop("cursor", None)
    return status, body
