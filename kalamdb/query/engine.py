# pyright: basic
"""DataFusion, closed in: one session per query, which knows the query's tables and nothing else.

Runs in query workers only; the only importer of datafusion.

Keeps: a session reads neither files nor catalogs, changes nothing, and cannot be told to by its
text (no DDL, DML, SET, COPY; no information_schema); its memory pool is bounded; its errors leave
as errors of the tree, with the names the user wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import datafusion
import pyarrow as pa

from kalamdb.errors import KalamError, QueryFailed, QueryMemoryExceeded
from kalamdb.lib.clock import Clock, Ids, ulid, uuid7
from kalamdb.model.ids import SEQ_STEP, GroupId, Seq, seq_at, seq_next
from kalamdb.query.arithmetic import Arithmetic, overflow
from kalamdb.sql.marks import shown_name

BATCH_ROWS = 8192
SNOWFLAKE_GROUP = GroupId(511)  # no data group has it: ids made here collide with no seq
ONE_PARTITION_ROWS_MAX = 50_000
"""Below, splitting the work costs more than it gains."""


@dataclass(frozen=True, slots=True)
class EngineTable:
    """A table of one query: the alias in its text, its rows, what the user calls it."""

    alias: str
    schema: pa.Schema
    batches: Sequence[pa.RecordBatch]
    shown: str


@dataclass(frozen=True, slots=True)
class Result:
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Engine:
    """Makes sessions. `memory_max_bytes` bounds what the operators of one query hold."""

    def __init__(self, clock: Clock, ids: Ids, *, memory_max_bytes: int, partitions: int) -> None:
        self._memory_max_bytes = memory_max_bytes
        self._partitions = partitions
        self._functions = _functions(clock, ids)
        self._arithmetic = Arithmetic()
        self._allowed = (
            datafusion.SQLOptions()
            .with_allow_ddl(False)
            .with_allow_dml(False)
            .with_allow_statements(False)
        )

    def run(self, text: str, tables: Sequence[EngineTable], *, ordered: bool) -> Result:
        """Plan and start one SELECT.

        Raises: QueryFailed, ValueOutOfRange, QueryMemoryExceeded, EnginePanic, also while
        iterating.

        Order: without an ORDER BY (`ordered` false), the rows of a query that only filters and
        projects one table come in the order of the table.
        """
        shown = {table.alias: table.shown for table in tables}
        rows = sum(batch.num_rows for table in tables for batch in table.batches)
        keeps_order = not ordered and len(tables) == 1
        partitions = 1 if keeps_order or rows <= ONE_PARTITION_ROWS_MAX else self._partitions
        session = self._session(partitions)
        for table in tables:
            batches = list(table.batches) or [_empty(table.schema)]
            session.register_record_batches(table.alias, [batches])
        try:
            return self._arithmetic.start(
                session.register_udf,
                text,
                lambda text: self._start(session.sql_with_options(text, self._allowed), shown),
                tuple((table.alias, table.schema) for table in tables),
            )
        except BaseException as error:  # a panic of the engine is a BaseException
            raise self._translated(error, shown) from error

    def _start(self, frame: datafusion.DataFrame, shown: Mapping[str, str]) -> Result:
        """Wait for the first rows. Raises what the engine raises."""
        stream = iter(frame.execute_stream())
        # What a frame says of itself is from before types were matched: a CASE has the type of
        # its first branch. Batches have the types they were computed with.
        first = next(stream, None)
        if first is None:
            return Result(frame.schema(), iter(()))
        batch = first.to_pyarrow()
        rest = _batches(stream, shown, self._memory_max_bytes)
        return Result(batch.schema, chain((batch,), rest))

    def _session(self, partitions: int) -> datafusion.SessionContext:
        config = (
            datafusion.SessionConfig(_OPTIONS)
            .with_target_partitions(partitions)
            .with_batch_size(BATCH_ROWS)
            .with_information_schema(False)
        )
        runtime = (
            datafusion.RuntimeEnvBuilder()
            .with_disk_manager_disabled()
            .with_greedy_memory_pool(self._memory_max_bytes)
        )
        session = datafusion.SessionContext(config, runtime)
        for function in self._functions:
            session.register_udf(function)
        return session

    def _translated(self, error: BaseException, shown: Mapping[str, str]) -> BaseException:
        return translated(error, shown, self._memory_max_bytes)


_OPTIONS = {"datafusion.sql_parser.dialect": "PostgreSQL"}


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _batches(
    stream: Iterator[datafusion.RecordBatch], shown: Mapping[str, str], memory_max_bytes: int
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in stream:
            yield batch.to_pyarrow()
    except GeneratorExit:
        raise
    except BaseException as error:  # a panic of the engine is a BaseException
        raise translated(error, shown, memory_max_bytes) from error


# ---- errors -------------------------------------------------------------------------------------


class EnginePanic(Exception):
    """The engine broke an assertion of its own; this process should not run another query."""


_LAYERS = (
    "DataFusion error",
    "Arrow error",
    "External error",
    "Execution error",
    "Error during planning",
    "Schema error",
    "SQL error",
    "Compute error",
    "Cast error",
    "Parser error",
    "This feature is not implemented",
    r"Optimizer rule '[^']*' failed",
    "type_coercion",
    "caused by",
)
_PREFIX = re.compile(rf"(?:{'|'.join(_LAYERS)})\s*:?\s*")
_PARSER = re.compile(r'^ParserError\("(.*)"\)$', re.DOTALL)
_CATALOG = re.compile(r"\bdatafusion\.public\.")
_BACKTRACE = re.compile(r"\n+(?:backtrace:|This issue was likely caused by).*", re.DOTALL)
# The fields a plan has are the engine's view of it, not the table's.
_FIELDS = re.compile(r"\s*Valid fields are .*", re.DOTALL)
_EXHAUSTED = ("Resources exhausted", "Failed to allocate")
_DETAIL_MAX = 500


def translated(
    error: BaseException, shown: Mapping[str, str], memory_max_bytes: int
) -> BaseException:
    """The error of the tree that an error of the engine means; an interrupt stays one."""
    if isinstance(error, (KalamError, KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    text = str(error)
    if type(error).__name__ == "PanicException":
        return EnginePanic(text)
    if any(word in text for word in _EXHAUSTED):
        return QueryMemoryExceeded(memory_max_bytes)
    if (found := overflow(text)) is not None:
        return found
    return QueryFailed(clean(text, shown))


def clean(text: str, shown: Mapping[str, str]) -> str:
    """What the engine said, without the names of its layers, with the names the user wrote."""
    text = _BACKTRACE.sub("", text).strip()
    while (found := _PREFIX.match(text)) is not None and found.end():
        text = text[found.end() :]
    if (found := _PARSER.match(text)) is not None:
        text = found[1]
    text = _CATALOG.sub("", text)
    for alias, name in shown.items():
        text = re.sub(rf"(?<!\w){re.escape(alias)}(?!\w)", lambda _, name=name: name, text)
    text = shown_name(" ".join(_FIELDS.sub("", text).split()))
    return text if len(text) <= _DETAIL_MAX else text[:_DETAIL_MAX] + "…"


# ---- functions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineFunction:
    """`kind` is SCALAR, AGGREGATE or WINDOW; `form` shows its arguments, by its first name."""

    name: str
    kind: str
    form: str


def functions() -> Sequence[EngineFunction]:
    """All that DataFusion brings, by kind and name, for the reference of functions."""
    session = datafusion.SessionContext(datafusion.SessionConfig().with_information_schema(True))
    listed = session.sql(
        "SELECT DISTINCT routine_name, function_type, syntax_example"
        " FROM information_schema.routines WHERE function_type <> 'TABLE' ORDER BY 2, 1, 3"
    )
    columns = listed.to_pydict().values()
    return [EngineFunction(*row) for row in zip(*columns, strict=True)]


def _functions(clock: Clock, ids: Ids) -> list[datafusion.ScalarUDF]:
    """The functions the engine lacks.

    Each takes a DOUBLE that it ignores, `random()` say: a function without arguments is not told
    how many rows it is for.
    """
    last = Seq(0)

    def snowflake_id() -> int:
        nonlocal last
        now = clock.wall_ms()
        if last < seq_at(now, SNOWFLAKE_GROUP):
            # A random start, so that two workers in one millisecond most likely differ.
            ordinal = int.from_bytes(ids.token(2), "big") & 0x7FF
            last = Seq(seq_at(now, SNOWFLAKE_GROUP) + ordinal * SEQ_STEP)
        else:
            last = seq_next(last, now, SNOWFLAKE_GROUP)
        return last

    return [
        _volatile("kalam_snowflake_id", snowflake_id, pa.int64()),
        _volatile("kalam_uuid_v7", lambda: str(uuid7(clock.wall_ms(), ids)), pa.utf8()),
        _volatile("kalam_ulid", lambda: ulid(clock.wall_ms(), ids), pa.utf8()),
    ]


def _volatile(name: str, draw: Callable[[], object], returns: pa.DataType) -> datafusion.ScalarUDF:
    def column(rows: pa.Array) -> pa.Array:
        return pa.array([draw() for _ in range(len(rows))], returns)

    return datafusion.udf(column, [pa.float64()], returns, "volatile", name)
