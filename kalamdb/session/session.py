"""The life of a statement, from an edge's request to the bytes of its answer.

1. An edge reads bytes into a `SqlRequest` (`edge/http/sql.py`).
2. `auth.authenticate` gave the Principal (once per connection, or per request for HTTP).
3. `parse.parse` turns text into Statements, from the cache when the text was seen.
4. `permissions.check(principal, statement, tables)` says yes or raises PermissionDenied.
5. `analyze.bind` resolves names, types and paths against the CatalogView (`prepared.py` keeps it).
6. `Groups.write | get | snapshot` carries it to the leader of the tenant's group.
7. The result, with its cursor, becomes JSON (`answers.py`).
8. An error goes through `edge/faults.py`; a failed statement of a batch carries its number.

There is no branch by protocol here. Text and role are looked at by steps 3 and 4 only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, assert_never

import orjson

from kalamdb.errors import (
    InvalidParameter,
    InvalidStatement,
    KalamError,
    MalformedRequest,
    ParamsWithBatch,
    SchemaChanged,
    UnknownTable,
)
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import DEFAULT_NAMESPACE
from kalamdb.model.command import Outcome
from kalamdb.model.principal import Principal
from kalamdb.model.work import ChangeKeys, InsertRows, RequestTag
from kalamdb.ports import Groups
from kalamdb.query import change, point, scan
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session import answers, introspect, permissions
from kalamdb.session.ddl import Definitions
from kalamdb.session.prepared import Data, Prepared, PreparedCache, prepare
from kalamdb.session.stale import StaleReads
from kalamdb.sql import analyze, parse
from kalamdb.sql.bound import (
    ChangePlan,
    EngineChangePlan,
    Env,
    InsertPlan,
    InsertSelectPlan,
    PointSelect,
    ScanSelect,
)
from kalamdb.sql.statement import (
    AlterUser,
    CreateNamespace,
    CreateTable,
    CreateUser,
    Delete,
    DescribeTable,
    DropNamespace,
    DropTable,
    DropUser,
    ExecuteAs,
    Explain,
    Insert,
    Select,
    SetOption,
    ShowNamespaces,
    ShowTables,
    Statement,
    SubscribeTo,
    Update,
    UseNamespace,
)

BINDS_MAX = 3
REQUEST_ID_LENGTH_MAX = 200
INLINE_TEXT_LENGTH_MAX = 64 << 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """What an edge read. `params` are JSON values; `request_id` makes a retry exactly-once."""

    sql: str
    params: list[Any] | None = None
    namespace_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    params_max: int
    param_size_max_bytes: int
    scan: scan.ScanLimits


@dataclass(slots=True)
class _Run:
    """One request on its way: what its statements share and change (USE, SET)."""

    principal: Principal
    request: SqlRequest
    namespace: str
    options: dict[str, str]
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Affected:
    """What INSERT, UPDATE or DELETE without RETURNING did; summed up in a batch."""

    verb: str
    outcome: Outcome


Answer = bytes | _Affected


class Session:
    """Executes requests for any principal; holds no state of one client."""

    def __init__(
        self,
        groups: Groups,
        engine: EnginePool,
        definitions: Definitions,
        clock: Clock,
        *,
        ids: Ids,
        limits: SessionLimits,
        on_execute_as: Callable[[Principal, str, bool], None],
    ) -> None:
        self._groups = groups
        self._stale = StaleReads(groups)
        self._engine = engine
        self._definitions = definitions
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._on_execute_as = on_execute_as
        self._prepared = PreparedCache()
        self.statements = 0
        self.failures = 0

    async def execute(self, principal: Principal, request: SqlRequest) -> bytes:
        """The JSON success envelope of a request. Raises the error tree.

        A failing statement of a batch carries its number as `statement`; earlier ones stay applied.
        """
        started_s = self._clock.monotonic_s()
        run = _Run(principal, request, request.namespace_id or DEFAULT_NAMESPACE, {})
        try:
            prepared = self._prepared.get(request.sql, run.namespace, self._groups.catalog)
            if prepared is not None:
                if request.params:
                    self._check_params(request.params)
                self.statements += 1
                answer = await self._data(run, prepared)
                results = [self._single(run, answer)]
            else:
                results = await self._batch(run)
        except KalamError:
            self.failures += 1
            raise
        return answers.envelope(results, (self._clock.monotonic_s() - started_s) * 1000)

    async def _batch(self, run: _Run) -> list[bytes]:
        statements = await self._off_loop(run, lambda: parse.parse(run.request.sql))
        if run.request.params is not None:
            self._check_params(run.request.params)
            if len(statements) > 1 and run.request.params:
                raise ParamsWithBatch()
        if len(statements) == 1:
            self.statements += 1
            return [self._single(run, await self._statement(run, statements[0], run.request.sql))]
        results: list[bytes] = []
        done: list[_Affected] = []
        for run.number, statement in enumerate(statements):
            self.statements += 1
            try:
                answer = await self._statement(run, statement, None)
            except KalamError as error:
                error.__dict__["statement"] = run.number + 1
                raise
            if isinstance(answer, _Affected):
                done.append(answer)
            else:
                results.append(answer)
        return results + _summaries(done, str(run.principal.user))

    def _single(self, run: _Run, answer: Answer) -> bytes:
        if isinstance(answer, bytes):
            return answer
        outcome = answer.outcome
        return answers.affected(answer.verb, outcome.affected, run.principal.user, outcome.seq)

    def _check_params(self, params: list[Any]) -> None:
        if len(params) > self._limits.params_max:
            raise InvalidParameter(
                None, f"{len(params)} given, at most {self._limits.params_max} are allowed"
            )
        for index, value in enumerate(params, 1):
            if isinstance(value, str):
                size = len(value)
            elif isinstance(value, (list, dict)):
                try:
                    size = len(orjson.dumps(value))
                except TypeError:
                    raise InvalidParameter(index, "it is nested too deeply") from None
            else:
                continue
            if size > self._limits.param_size_max_bytes:
                limit = self._limits.param_size_max_bytes
                raise InvalidParameter(index, f"{size} bytes, at most {limit} are allowed")

    # ---- one statement --------------------------------------------------------------------------

    async def _statement(self, run: _Run, statement: Statement, text: str | None) -> Answer:
        match statement:
            case Select() | Insert() | Update() | Delete():
                return await self._data(run, await self._prepare(run, statement, text))
            case ExecuteAs():
                return await self._execute_as(run, statement)
            case Explain():
                return await self._explain(run, statement)
            case _:
                return await self._other(run, statement)

    async def _other(
        self,
        run: _Run,
        statement: CreateNamespace
        | DropNamespace
        | UseNamespace
        | CreateTable
        | DropTable
        | CreateUser
        | AlterUser
        | DropUser
        | ShowNamespaces
        | ShowTables
        | DescribeTable
        | SetOption
        | SubscribeTo,
    ) -> bytes:
        catalog = self._groups.catalog
        user = run.principal.user
        tables = self._definitions.tables_of(statement, run)
        user_ddl = self._definitions.user_ddl
        permissions.check(run.principal, statement, tables, user_ddl=user_ddl)
        match statement:
            case UseNamespace():
                self._definitions.require_namespace(statement.name)
                run.namespace = statement.name
                return answers.message(f"using namespace {statement.name}", user)
            case SetOption():
                _set_option(run.options, statement)
                return answers.message(f"{statement.name} is {statement.value}", user)
            case ShowNamespaces():
                return introspect.namespaces(catalog, user)
            case ShowTables():
                return introspect.tables(catalog, statement.namespace, user)
            case DescribeTable():
                return introspect.describe(catalog, statement.table, run.namespace, user)
            case SubscribeTo():
                return introspect.subscription(statement, self._ids, user)
            case _:
                tag = self._tag(run)
                text = await self._definitions.carry_out(
                    run.principal, statement, run.namespace, tag
                )
                return answers.message(text, user)

    async def _execute_as(self, run: _Run, statement: ExecuteAs) -> Answer:
        inner = statement.inner
        if not isinstance(inner, (Select, Insert, Update, Delete)):
            raise InvalidStatement("EXECUTE AS takes one SELECT, INSERT, UPDATE or DELETE")
        target = self._groups.catalog.users.get(statement.user)
        try:
            permissions.check_execute_as(run.principal, statement.user, target)
        except KalamError:
            self._on_execute_as(run.principal, statement.user, False)
            raise
        self._on_execute_as(run.principal, statement.user, True)
        inside = replace(run, principal=run.principal.act_as(statement.user))
        prepared = await self._prepare(inside, inner, None)
        if any(not table.is_tenant_scoped for table in prepared.tables):
            raise InvalidStatement("EXECUTE AS reaches USER and STREAM tables only")
        answer = await self._data(inside, prepared)
        if isinstance(answer, _Affected):
            return answers.affected(
                answer.verb, answer.outcome.affected, statement.user, answer.outcome.seq
            )
        return answer

    async def _explain(self, run: _Run, statement: Explain) -> bytes:
        inner = statement.inner
        if not isinstance(inner, (Select, Insert, Update, Delete)):
            raise InvalidStatement("EXPLAIN takes a SELECT, INSERT, UPDATE or DELETE")
        permissions.check(run.principal, statement, ())
        prepared = await self._prepare(run, inner, None)
        permissions.check(run.principal, inner, prepared.tables)
        lines = analyze.describe_path(prepared.bound)
        return introspect.text_rows("plan", lines, run.principal.user)

    # ---- data: the hot path ---------------------------------------------------------------------

    async def _off_loop(self, run: _Run, work: Callable[[], T]) -> T:
        """Reading and binding a long text takes a second: in a thread, so that others go on."""
        if len(run.request.sql) <= INLINE_TEXT_LENGTH_MAX:
            return work()
        return await asyncio.get_running_loop().run_in_executor(None, work)

    async def _prepare(self, run: _Run, statement: Data, text: str | None) -> Prepared:
        """Bind `statement`; kept by text when it is a request of its own."""
        catalog, namespace = self._groups.catalog, run.namespace
        prepared = await self._off_loop(run, lambda: prepare(statement, catalog, namespace))
        if text is not None:
            self._prepared.put(text, run.namespace, prepared)
        return prepared

    async def _data(self, run: _Run, prepared: Prepared) -> Answer:
        params = run.request.params
        for attempt in range(BINDS_MAX):
            role = run.principal.role
            if role not in prepared.permitted:
                permissions.check(run.principal, prepared.statement, prepared.tables)
                prepared.permitted.add(role)
            env = Env(run.principal, self._clock.wall_ms(), self._ids, params or ())
            try:
                return await self._bound(run, prepared, env)
            except SchemaChanged as moved:
                if attempt == BINDS_MAX - 1:
                    raise UnknownTable(moved.table) from moved
                prepared = prepare(prepared.statement, self._groups.catalog, run.namespace)
        raise AssertionError("the loop answers or raises")

    async def _bound(self, run: _Run, prepared: Prepared, env: Env) -> Answer:
        bound = prepared.bound
        user = env.principal.user
        match bound:
            case PointSelect():
                found = await point.select(bound, env, self._reads(run))
                partition = bound.table.partition_for(env.principal.partition)
                cursor = self._groups.last_change(bound.table, partition)
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
                outcome = await self._groups.write(work.partition, work, self._tag(run))
                return _written("Inserted", prepared, outcome, user)
            case ChangePlan() if bound.keys is not None:
                return await self._change_keys(run, prepared, bound, env)
            case ScanSelect():
                result = await scan.select(
                    bound, env, self._reads(run), self._engine, self._limits.scan
                )
                return answers.rows(
                    answers.schema(result.columns),
                    result.rows_json,
                    result.row_count,
                    user,
                    result.cursor,
                )
            case ChangePlan() | EngineChangePlan() | InsertSelectPlan():
                outcome = await change.change(
                    bound,
                    env,
                    self._groups,
                    self._engine,
                    limits=self._limits.scan,
                    tag=self._tag(run),
                )
                return _written(_verb(bound), prepared, outcome, user)
            case _:
                assert_never(bound)

    async def _change_keys(
        self, run: _Run, prepared: Prepared, bound: ChangePlan, env: Env
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
        outcome = await self._groups.write(work.partition, work, self._tag(run))
        return _written(_verb(bound), prepared, outcome, env.principal.user)

    def _reads(self, run: _Run) -> Groups:
        """Where a SELECT reads: confirmed as the newest, unless the request does not care."""
        return self._stale if run.options.get("consistency") == "stale" else self._groups

    def _tag(self, run: _Run) -> RequestTag | None:
        """Names the statement for exactly-once retries; None without a request id."""
        request_id = run.request.request_id
        if request_id is None:
            return None
        check_request_id(request_id)
        digest = hashlib.blake2b(run.request.sql.encode(), digest_size=16)
        digest.update(orjson.dumps([run.namespace, run.request.params]))
        principal = run.principal
        return RequestTag(
            str(principal.user), str(principal.actor), request_id, run.number, digest.digest()
        )


def check_request_id(request_id: str) -> None:
    """Raises MalformedRequest for an empty or too long one."""
    if not 1 <= len(request_id) <= REQUEST_ID_LENGTH_MAX:
        raise MalformedRequest(f"a request id has 1 to {REQUEST_ID_LENGTH_MAX} characters")


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
    return _Affected(verb, outcome)


def _summaries(done: list[_Affected], user: str) -> list[bytes]:
    """Totals of a batch by kind, in the order inserted, updated, deleted."""
    results: list[bytes] = []
    for verb in answers.VERBS:
        parts = [each.outcome for each in done if each.verb == verb]
        if parts:
            total = sum(outcome.affected for outcome in parts)
            results.append(answers.affected(verb, total, user, parts[-1].seq))
    return results


OPTIONS: Mapping[str, frozenset[str]] = {
    "consistency": frozenset(("linearizable", "stale")),
}


def _set_option(options: dict[str, str], statement: SetOption) -> None:
    allowed = OPTIONS.get(statement.name)
    if allowed is None:
        known = ", ".join(sorted(OPTIONS))
        raise InvalidStatement(f"SET {statement.name} is not known; known are {known}")
    if statement.value not in allowed:
        choices = " or ".join(sorted(allowed))
        raise InvalidStatement(f"SET {statement.name} takes {choices}")
    options[statement.name] = statement.value
