"""Data statements of a run: prepared once, then carried out where the run reads and writes.

1. `prepare` binds a statement; it is kept by text when it is a request of its own.
2. `answer` checks the role once per prepared statement, fixes time and parameters, and takes the
   path that was bound: by key, by scan, by the query engine.
3. When a group knows a newer definition than was bound, it binds again, at most `BINDS_MAX` times.

Keeps: no second parse for a statement that was seen; a point read and a plain insert await nothing
but the group's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, assert_never

import orjson

from kalamdb.errors import SchemaChanged, StatementFailed, UnknownTable
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.table import TableDef
from kalamdb.model.work import ChangeKeys, InsertRows
from kalamdb.query import change, point, ranged, scan
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session import answers, permissions
from kalamdb.session.oversight import Oversight
from kalamdb.session.prepared import Data, Prepared, PreparedCache, prepare
from kalamdb.session.run import Affected, Answer, Run, SessionLimits, check_params, tag_of
from kalamdb.session.stream import HeldAnswer
from kalamdb.sql.bound import (
    ChangePlan,
    EngineChangePlan,
    Env,
    InsertPlan,
    InsertSelectPlan,
    PointSelect,
    RangeSelect,
    ScanSelect,
)

BINDS_MAX = 3
INLINE_TEXT_LENGTH_MAX = 8 << 10  # some 20 ms of the loop at most

T = TypeVar("T")


class DataStatements:
    """See the module. Holds what was prepared, and no state of one client."""

    def __init__(
        self,
        engine: EnginePool,
        clock: Clock,
        ids: Ids,
        limits: SessionLimits,
        oversight: Oversight,
    ) -> None:
        self._engine = engine
        self._oversight = oversight
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._prepared = PreparedCache()

    def find(self, run: Run, catalog: CatalogView) -> Prepared | None:
        """The whole request as a statement that was prepared before. Checks its parameters."""
        prepared = self._prepared.get(run.request.sql, run.namespace, catalog)
        if prepared is not None and run.request.params:
            check_params(run.request.params, self._limits)
        return prepared

    async def prepare(self, run: Run, statement: Data, text: str | None) -> Prepared:
        """Bind `statement`; kept by text when it is a request of its own."""
        catalog, namespace = run.reads.catalog, run.namespace
        try:
            prepared = await off_loop(
                run.request.sql, lambda: prepare(statement, catalog, namespace)
            )
        except StatementFailed:
            ahead = catalog.ahead()  # it may name what only the groups know of yet
            if ahead is catalog:
                raise
            prepared = await off_loop(run.request.sql, lambda: prepare(statement, ahead, namespace))
        if text is not None:
            self._prepared.put(text, run.namespace, prepared)
        return prepared

    async def answer(self, run: Run, prepared: Prepared) -> Answer:
        """Raises PermissionDenied, UnknownTable, and what the paths raise."""
        params = run.request.params
        for attempt in range(BINDS_MAX):
            role = run.principal.role
            if role not in prepared.permitted:
                permissions.check(run.principal, prepared.statement, prepared.tables)
                if prepared.all_users:
                    permissions.check_reads_all(run.principal)
                prepared.permitted.add(role)
            for name in prepared.all_users:
                self._oversight.on_read_all(run.principal, name)
            env = Env(run.principal, self._clock.wall_ms(), self._ids, params or ())
            try:
                return await self._bound(run, prepared, env)
            except SchemaChanged as moved:
                if attempt == BINDS_MAX - 1:
                    raise UnknownTable(moved.table) from moved
                prepared = self._bound_again(run, prepared, moved)
        raise AssertionError("the loop answers or raises")

    def _bound_again(self, run: Run, prepared: Prepared, moved: SchemaChanged) -> Prepared:
        """Bind against the definition a group has: the catalog shows it only when all have it."""
        catalog = run.reads.catalog
        for table in prepared.tables:  # what other groups told of before
            shown = catalog.tables_by_id.get(table.id)
            if shown is not None and shown.version < table.version:
                catalog = catalog.with_table(table)
        definition: TableDef | None = moved.definition
        shown = None if definition is None else catalog.tables_by_id.get(definition.id)
        if definition is not None and shown is not None:
            refused = any(
                table.id == shown.id and table.version == shown.version for table in prepared.tables
            )
            if refused or shown.version < definition.version:
                catalog = catalog.with_table(definition)
        again = prepare(prepared.statement, catalog, run.namespace)
        if prepared.text is not None:
            self._prepared.put(prepared.text, run.namespace, again)
        return again

    async def _bound(self, run: Run, prepared: Prepared, env: Env) -> Answer:
        bound = prepared.bound
        user = env.principal.user
        match bound:
            case PointSelect():
                found = await point.select(bound, env, run.reads)
                partition = bound.table.partition_for(env.principal.partition)
                cursor = run.reads.last_change(bound.table, partition)
                return answers.rows(
                    prepared.schema, orjson.dumps(found), len(found), user, str(cursor)
                )
            case InsertPlan():
                work = InsertRows(
                    bound.table,
                    bound.table.partition_for(env.principal.partition),
                    bound.rows(env),
                    bound.drawn,
                    None if bound.conflict is None else bound.conflict(env),
                    bound.returning,
                )
                outcome = await run.writes.write(work.partition, work, tag_of(run))
                return _written("Inserted", prepared, outcome, user)
            case ChangePlan() if bound.keys is not None:
                return await self._change_keys(run, prepared, bound, env)
            case RangeSelect():
                queries = self._oversight.queries
                with queries.track(env.principal, "Select", run.request.sql) as query:
                    found = await ranged.select(
                        bound, env, run.reads, self._engine, self._limits.scan, hold=run.streams
                    )
                    query.row_count = None if found is None else found.row_count
                if found is None:
                    return await self._bound(run, replace(prepared, bound=bound.otherwise), env)
                return answers.rows(
                    prepared.schema, found.rows_json, found.row_count, user, found.cursor
                )
            case ScanSelect():
                return await self._select(run, bound, env)
            case ChangePlan() | EngineChangePlan() | InsertSelectPlan():
                verb = _verb(bound)
                with self._oversight.queries.track(env.principal, verb, run.request.sql) as query:
                    outcome = await change.change(
                        bound,
                        env,
                        run.writes,
                        self._engine,
                        limits=self._limits.scan,
                        tag=tag_of(run),
                        open_virtual=self._oversight.system.opener(env.principal),
                    )
                    query.row_count = outcome.affected
                return _written(verb, prepared, outcome, user)
            case _:
                assert_never(bound)

    async def _select(self, run: Run, bound: ScanSelect, env: Env) -> Answer:
        oversight = self._oversight
        with oversight.queries.track(env.principal, "Select", run.request.sql) as query:
            result = await scan.select(
                bound,
                env,
                run.reads,
                self._engine,
                self._limits.scan,
                open_virtual=oversight.system.opener(env.principal),
                hold=run.streams,
            )
            query.row_count = result.row_count
        schema, user = answers.schema(result.columns), env.principal.user
        if result.held is None:
            return answers.rows(schema, result.rows_json, result.row_count, user, result.cursor)
        return HeldAnswer(
            answers.before_rows(schema) + b"[",
            result.held,
            b"]" + answers.after_rows(result.row_count, user, result.cursor),
        )

    async def _change_keys(
        self, run: Run, prepared: Prepared, bound: ChangePlan, env: Env
    ) -> Answer:
        assert bound.keys is not None
        where = None if bound.where is None else bound.where(env)
        work = ChangeKeys(
            bound.table,
            bound.table.partition_for(env.principal.partition),
            bound.keys(env),
            None if bound.change is None else bound.change(env),
            where,
            bound.returning,
        )
        outcome = await run.writes.write(work.partition, work, tag_of(run))
        return _written(_verb(bound), prepared, outcome, env.principal.user)


async def off_loop(text: str, work: Callable[[], T]) -> T:
    """Reading and binding a long text takes up to a second: in a thread, others go on."""
    if len(text) <= INLINE_TEXT_LENGTH_MAX:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _verb(bound: ChangePlan | EngineChangePlan | InsertSelectPlan) -> str:
    match bound:
        case InsertSelectPlan():
            return "Inserted"
        case EngineChangePlan():
            return "Deleted" if bound.assigned is None else "Updated"
        case ChangePlan():
            return "Deleted" if bound.change is None else "Updated"


def _written(verb: str, prepared: Prepared, outcome: Outcome, user: str) -> Answer:
    if outcome.columns is not None:
        return answers.returned(prepared.schema, outcome, user)
    return Affected(verb, outcome)
