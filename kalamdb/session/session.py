"""The life of a statement, from an edge's request to the bytes of its answer.

1. An edge reads bytes into a `SqlRequest` (`edge/http/sql.py`).
2. `auth.authenticate` gave the Principal (once per connection, or per request for HTTP).
3. `parse.parse` turns text into Statements, from the cache when the text was seen.
4. `permissions.check(principal, statement, tables)` says yes or raises PermissionDenied.
5. `analyze.bind` resolves names, types and paths against the CatalogView (`data.py`).
6. `Groups.write | get | snapshot` carries it to the leader of the tenant's group.
7. The result, with its cursor, becomes JSON (`answers.py`).
8. An error goes through `edge/faults.py`; a failed statement of a batch carries its number.

There is no branch by protocol here. Text and role are looked at by steps 3 and 4 only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kalamdb.errors import InvalidStatement, KalamError, ParamsWithBatch
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import DEFAULT_NAMESPACE
from kalamdb.model.principal import Principal
from kalamdb.ports import Groups
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session import answers, introspect, permissions
from kalamdb.session.data import DataStatements
from kalamdb.session.ddl import Definitions
from kalamdb.session.run import (
    Affected,
    Answer,
    Run,
    SessionLimits,
    SqlRequest,
    check_option,
    check_params,
    single,
    summaries,
    tag_of,
)
from kalamdb.session.stale import StaleReads
from kalamdb.sql import analyze, parse
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
        self._definitions = definitions
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._on_execute_as = on_execute_as
        self._data = DataStatements(engine, clock, ids, limits)
        self.statements = 0
        self.failures = 0

    async def execute(self, principal: Principal, request: SqlRequest) -> bytes:
        """The JSON success envelope of a request. Raises the error tree.

        A failing statement of a batch carries its number as `statement`; earlier ones stay applied.
        """
        started_s = self._clock.monotonic_s()
        groups = self._groups
        namespace = request.namespace_id or DEFAULT_NAMESPACE
        run = Run(principal, request, namespace, groups, groups)
        try:
            prepared = self._data.find(run, groups.catalog)
            if prepared is not None:
                self.statements += 1
                results = [single(await self._data.answer(run, prepared), principal.user)]
            else:
                results = await self._batch(run)
        except KalamError:
            self.failures += 1
            raise
        return answers.envelope(results, (self._clock.monotonic_s() - started_s) * 1000)

    async def _batch(self, run: Run) -> list[bytes]:
        statements = await self._data.off_loop(run, lambda: parse.parse(run.request.sql))
        if run.request.params is not None:
            check_params(run.request.params, self._limits)
            if len(statements) > 1 and run.request.params:
                raise ParamsWithBatch()
        if len(statements) == 1:
            self.statements += 1
            answer = await self._statement(run, statements[0], run.request.sql)
            return [single(answer, run.user)]
        results: list[bytes] = []
        done: list[Affected] = []
        for run.number, statement in enumerate(statements):
            self.statements += 1
            try:
                answer = await self._statement(run, statement, None)
            except KalamError as error:
                error.__dict__["statement"] = run.number + 1
                raise
            if isinstance(answer, Affected):
                done.append(answer)
            else:
                results.append(answer)
        return results + summaries(done, run.user)

    # ---- one statement --------------------------------------------------------------------------

    async def _statement(self, run: Run, statement: Statement, text: str | None) -> Answer:
        match statement:
            case Select() | Insert() | Update() | Delete():
                prepared = await self._data.prepare(run, statement, text)
                return await self._data.answer(run, prepared)
            case ExecuteAs():
                return await self._execute_as(run, statement)
            case Explain():
                return await self._explain(run, statement)
            case _:
                return await self._other(run, statement)

    async def _other(
        self,
        run: Run,
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
                self._set_option(run, statement)
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
                tag = tag_of(run)
                text = await self._definitions.carry_out(
                    run.principal, statement, run.namespace, tag
                )
                return answers.message(text, user)

    async def _execute_as(self, run: Run, statement: ExecuteAs) -> Answer:
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
        prepared = await self._data.prepare(inside, inner, None)
        if any(not table.is_tenant_scoped for table in prepared.tables):
            raise InvalidStatement("EXECUTE AS reaches USER and STREAM tables only")
        return single(await self._data.answer(inside, prepared), statement.user)

    def _set_option(self, run: Run, statement: SetOption) -> None:
        check_option(statement)
        # `consistency` is the only one there is.
        run.reads = self._stale if statement.value == "stale" else self._groups

    async def _explain(self, run: Run, statement: Explain) -> bytes:
        inner = statement.inner
        if not isinstance(inner, (Select, Insert, Update, Delete)):
            raise InvalidStatement("EXPLAIN takes a SELECT, INSERT, UPDATE or DELETE")
        permissions.check(run.principal, statement, ())
        prepared = await self._data.prepare(run, inner, None)
        permissions.check(run.principal, inner, prepared.tables)
        lines = analyze.describe_path(prepared.bound)
        return introspect.text_rows("plan", lines, run.principal.user)
