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

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from kalamdb.errors import InvalidStatement, KalamError, ParamsWithBatch
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import DEFAULT_NAMESPACE
from kalamdb.model.principal import Principal
from kalamdb.ports import Groups
from kalamdb.query import far
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session import answers, introspect, permissions
from kalamdb.session.cluster_statements import ClusterStatements
from kalamdb.session.data import DataStatements, off_loop
from kalamdb.session.ddl import Definitions
from kalamdb.session.node_statements import NodeStatement, NodeStatements
from kalamdb.session.oversight import Oversight
from kalamdb.session.oversight import oversight as made_oversight
from kalamdb.session.reply import Reply
from kalamdb.session.run import (
    Affected,
    Answer,
    Conversation,
    Done,
    Piece,
    Result,
    Run,
    SessionLimits,
    SqlRequest,
    check_option,
    check_params,
    single,
    tag_of,
)
from kalamdb.session.stale import NEWEST, STALE, FreshReads, freshness_of
from kalamdb.session.stream import enveloped
from kalamdb.session.table_facts import TableFacts
from kalamdb.session.tally import Tally
from kalamdb.session.transaction_control import NEW, TransactionControl, repeated_answers
from kalamdb.session.transactions import Transactions
from kalamdb.sql import analyze, parse
from kalamdb.sql.statement import (
    AlterNamespace,
    AlterTable,
    AlterUser,
    Begin,
    Cluster,
    Commit,
    CreateIndex,
    CreateNamespace,
    CreateTable,
    CreateUser,
    CreateView,
    Delete,
    DescribeTable,
    DropIndex,
    DropNamespace,
    DropTable,
    DropUser,
    DropView,
    ExecuteAs,
    Explain,
    Insert,
    Kill,
    ReleaseSavepoint,
    Rollback,
    RollbackTo,
    Savepoint,
    Select,
    SetOption,
    SetTransaction,
    ShowCreate,
    ShowIndexes,
    ShowNamespaces,
    ShowOngoing,
    ShowSettings,
    ShowStats,
    ShowTables,
    ShowUsers,
    Statement,
    SubscribeTo,
    Update,
    UseNamespace,
)
from kalamdb.transaction_errors import TransactionMisused, UnknownTransaction

TURN_S = 0.005
"""A request of many statements lets others go on when it has had the loop for so long."""


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
        transactions: Transactions,
        oversight: Oversight | None = None,
    ) -> None:
        self._groups = groups
        self._definitions = definitions
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._on_execute_as = on_execute_as
        self._control = TransactionControl(transactions, groups)
        around = oversight or made_oversight(lambda: groups.catalog, clock)
        self._node = NodeStatements(
            lambda: groups.catalog,
            around.system,
            around.activity,
            around.on_kill,
            cluster=ClusterStatements(around.system, around.cluster, around.on_cluster),
        )
        self._facts = TableFacts(
            groups, engine, clock, ids=ids, limits=limits.scan, activity=around.activity
        )
        self._data = DataStatements(engine, clock, ids, limits, around)
        self.statements = 0
        self.failures = 0

    async def execute(self, principal: Principal, request: SqlRequest) -> Reply:
        """The JSON success envelope of a request: bytes, or a stream where the request `streams`.

        Raises the error tree.

        A failing statement of a batch carries its number as `statement`; earlier ones stay applied.
        """
        if request.transaction_id is not None:
            return await self._named(principal, request, "http")
        started_s = self._clock.monotonic_s()
        groups = self._groups
        namespace = request.namespace_id or DEFAULT_NAMESPACE
        run = Run(principal, request, namespace, groups)
        try:
            if not request.usual:
                run.reads = self._reads(request, request.consistency)
            prepared = self._data.find(run, groups.catalog)
            if prepared is not None:
                self.statements += 1
                results = [single(await self._data.answer(run, prepared), principal.user)]
            else:
                results = await self._batch(run)
        except KalamError:
            self.failures += 1
            raise
        took_ms = (self._clock.monotonic_s() - started_s) * 1000
        return enveloped(results, took_ms, self._limits.result_stall_s)

    async def _batch(self, run: Run) -> list[Result]:
        statements = await off_loop(run.request.sql, lambda: parse.parse(run.request.sql))
        if run.request.params is not None:
            check_params(run.request.params, self._limits)
            if len(statements) > 1 and run.request.params:
                raise ParamsWithBatch()
        run.ahead = statements
        if run.transaction is not None:
            self._control.check_request_id(run, statements)
        if run.keeps:
            return await self._all_of(run, statements)
        async with self._closed_at_end(run):
            return await self._all_of(run, statements)

    @asynccontextmanager
    async def _closed_at_end(self, run: Run) -> AsyncGenerator[None]:
        """A transaction that was begun here has to be over at the end. Raises
        TransactionMisused.
        """
        try:
            yield
            if run.transaction is not None:
                raise TransactionMisused(
                    "the transaction was rolled back: its COMMIT has to stand in the same request,"
                    ' or the request begins it with "transaction_id": "new"'
                )
        finally:
            self._control.roll_back(run)

    async def piece(self, principal: Principal, request: SqlRequest, piece: Piece) -> Done:
        """Some statements of a request, the others being carried out elsewhere. Raises as
        `execute` does.
        """
        run = Run(principal, request, piece.namespace, self._groups)
        run.reads = self._reads(request, STALE if piece.stale else None)
        statements = await off_loop(request.sql, lambda: parse.parse(request.sql))
        run.ahead = statements
        try:
            async with self._closed_at_end(run):
                results, tally = await self._in_order(
                    run, statements, range(piece.start, piece.stop)
                )
        except KalamError:
            self.failures += 1
            raise
        whole = [one if isinstance(one, bytes) else one.whole() for one in results]
        return Done(whole, tally.totals())

    async def _all_of(self, run: Run, statements: Sequence[Statement]) -> list[Result]:
        if len(statements) == 1:
            self.statements += 1
            answer = await self._statement(run, statements[0], run.request.sql)
            return [single(answer, run.user)]
        results, tally = await self._in_order(run, statements, range(len(statements)))
        return results + tally.results(run.user)

    async def _in_order(
        self, run: Run, statements: Sequence[Statement], places: range
    ) -> tuple[list[Result], Tally]:
        run.streams = False
        results: list[Result] = []
        tally = Tally()
        turn_s = self._clock.monotonic_s()
        for run.number in places:
            statement = statements[run.number]
            self.statements += 1
            if self._clock.monotonic_s() - turn_s > TURN_S:
                await asyncio.sleep(0)  # most statements wait for nothing
                turn_s = self._clock.monotonic_s()
            repeat = run.repeat
            if repeat is not None:
                if run.number == repeat.commit_at:
                    committed, totals = repeated_answers(run, repeat)
                    results.append(committed)
                    for total in totals:
                        tally.add(total)
                    run.repeat = None
                continue
            try:
                answer = await self._statement(run, statement, None)
            except KalamError as error:
                error.__dict__["statement"] = run.number + 1
                raise
            tally.follow(statement)
            if isinstance(answer, Affected):
                tally.add(answer)
            else:
                results.append(answer)
        return results, tally

    # ---- transactions that outlive a request ----------------------------------------------------

    async def converse(self, talk: Conversation, request: SqlRequest) -> bytes:
        """One request of a connection; a transaction it leaves open goes on with the next one.

        The envelope of `execute`, whole, with the id of the transaction open after it. Raises the
        error tree; the transaction has failed then, until ROLLBACK.
        """
        transaction = talk.transaction
        if request.transaction_id is not None:
            if transaction is not None:
                raise TransactionMisused("this connection has a transaction of its own open")
            return await self._named(talk.principal, request, "websocket")
        run = self._kept_run(talk.principal, request, "websocket")
        if transaction is not None:
            self._control.check_reads(request)
            transaction.take_turn()
            run.enter(transaction)
        try:
            return await self._kept(run)
        finally:
            talk.transaction = run.transaction

    def hang_up(self, talk: Conversation) -> None:
        """The connection is gone: roll back what it left open."""
        if talk.transaction is not None:
            self._control.transactions.settled(talk.transaction, committed=False)
            talk.transaction = None

    async def _named(self, principal: Principal, request: SqlRequest, origin: str) -> bytes:
        """A request that names a transaction, or begins one to be named."""
        run = self._kept_run(principal, request, origin)
        self._control.check_reads(request)
        assert request.transaction_id is not None
        if request.transaction_id != NEW:
            try:
                transaction = self._control.transactions.find(request.transaction_id, principal)
            except UnknownTransaction:
                statements = await off_loop(request.sql, lambda: parse.parse(request.sql))
                return answers.envelope(
                    [await self._control.committed_before(run, statements)], 0.0
                )
            transaction.take_turn()
            run.enter(transaction)
        return await self._kept(run)

    def _kept_run(self, principal: Principal, request: SqlRequest, origin: str) -> Run:
        namespace = request.namespace_id or DEFAULT_NAMESPACE
        run = Run(principal, request, namespace, self._groups)
        run.streams, run.keeps, run.origin = False, True, origin
        run.reads = self._reads(request, request.consistency)
        return run

    def _reads(self, request: SqlRequest, consistency: str | None) -> Groups:
        """Where the request reads: with `consistency`, and not before its cursor. Raises
        MalformedRequest.
        """
        freshness = freshness_of(consistency, request.min_cursor)
        if freshness == NEWEST:
            return self._groups
        return FreshReads(self._groups, freshness, self._limits.stale_wait_s)

    async def _kept(self, run: Run) -> bytes:
        started_s = self._clock.monotonic_s()
        try:
            results = await self._kept_results(run)
        except BaseException:
            self.failures += 1
            self._control.failed(run)
            raise
        finally:
            if run.transaction is not None:
                self._control.transactions.used(run.transaction)
        took_ms = (self._clock.monotonic_s() - started_s) * 1000
        whole = [one if isinstance(one, bytes) else one.whole() for one in results]
        open_id = None if run.transaction is None else run.transaction.id
        return answers.envelope(whole, took_ms, open_id)

    async def _kept_results(self, run: Run) -> list[Result]:
        if run.request.transaction_id == NEW:
            self._control.check_begins(
                await off_loop(run.request.sql, lambda: parse.parse(run.request.sql))
            )
        prepared = self._data.find(run, self._groups.catalog)
        if prepared is None:
            return await self._batch(run)
        if run.transaction is not None:
            self._control.check_request_id(run, ())
            self._control.admit(run.transaction, prepared.statement)
        self.statements += 1
        return [single(await self._data.answer(run, prepared), run.user)]

    # ---- one statement --------------------------------------------------------------------------

    async def _statement(self, run: Run, statement: Statement, text: str | None) -> Answer:
        if run.transaction is not None:
            self._control.admit(run.transaction, statement)
        match statement:
            case Select() | Insert() | Update() | Delete():
                prepared = await self._data.prepare(run, statement, text)
                return await self._data.answer(run, prepared)
            case ExecuteAs():
                return await self._execute_as(run, statement)
            case Explain():
                return await self._explain(run, statement)
            case (
                Begin()
                | SetTransaction()
                | Commit()
                | Rollback()
                | Savepoint()
                | ReleaseSavepoint()
                | RollbackTo()
            ):
                return await self._control.carry_out(run, statement)
            case _:
                return await self._other(run, statement)

    async def _other(
        self,
        run: Run,
        statement: CreateNamespace
        | DropNamespace
        | UseNamespace
        | CreateTable
        | AlterTable
        | DropTable
        | CreateView
        | DropView
        | AlterNamespace
        | CreateIndex
        | DropIndex
        | CreateUser
        | AlterUser
        | DropUser
        | ShowNamespaces
        | ShowTables
        | DescribeTable
        | ShowCreate
        | ShowStats
        | SetOption
        | SubscribeTo
        | NodeStatement,
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
                return introspect.namespaces(catalog, run.principal)
            case ShowTables():
                return introspect.tables(catalog, statement.namespace, run.principal)
            case DescribeTable() | ShowCreate() | ShowStats():
                return await self._facts.answer(run, statement)
            case SubscribeTo():
                return introspect.subscription(statement, self._ids, user)
            case Kill() | Cluster() | ShowOngoing() | ShowUsers() | ShowIndexes() | ShowSettings():
                return await self._node.answer(run.principal, statement, run.namespace)
            case _:
                if isinstance(statement, CreateView):
                    statement = await self._facts.with_columns(run, statement)
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
        inside = run.acting(run.principal.act_as(statement.user))
        prepared = await self._data.prepare(inside, inner, None)
        if any(not table.is_tenant_scoped for table in prepared.tables):
            raise InvalidStatement("EXECUTE AS reaches USER and STREAM tables only")
        return single(await self._data.answer(inside, prepared), statement.user)

    def _set_option(self, run: Run, statement: SetOption) -> None:
        check_option(statement)
        # `consistency` is the only one there is.
        run.reads = self._reads(run.request, statement.value)

    async def _explain(self, run: Run, statement: Explain) -> bytes:
        inner = statement.inner
        if not isinstance(inner, (Select, Insert, Update, Delete)):
            raise InvalidStatement("EXPLAIN takes a SELECT, INSERT, UPDATE or DELETE")
        permissions.check(run.principal, statement, ())
        prepared = await self._data.prepare(run, inner, None)
        permissions.check(run.principal, inner, prepared.tables)
        lines = list(analyze.describe_path(prepared.bound))
        if run.reads.far is not None:
            tenant, catalog = run.principal.partition, self._groups.catalog
            lines += far.described(prepared.bound, tenant, catalog, run.reads.far)
        return introspect.text_rows("plan", lines, run.principal.user)
