"""A result of a live query that is evaluated anew: its rows as JSON objects, and its cursor.

The cursor of a result is text:

    r1.QUERY.DIGEST.TIME{group:seq,…}

QUERY names the query (tables, text, tenant), DIGEST what the result held, TIME is the clock's, and
the seqs are those of the last changes of the chains that were read. Resuming evaluates the query on
the rows of then; only if that gives what DIGEST says is the difference to now what the client
misses. So a query that may answer the same rows differently (ties in ORDER BY … LIMIT) is resumed
right or not at all.

Keeps: seqs are of the query's own chains, never of a group; a cursor is bounded and either parsed
whole or refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import xxhash

from kalamdb.errors import InvalidStatement
from kalamdb.feed.difference import Listing
from kalamdb.model.ids import GROUPS_MAX, SEQ_MAX, GroupId, Partition, Seq
from kalamdb.query.moment import Evaluated, Moment
from kalamdb.sql.bound import OutputColumn, ReevaluatedPlan

CURSOR_LENGTH_MAX = 16_384
_CURSOR = re.compile(
    r"r1\.([0-9a-f]{16})\.([0-9a-f]{16})\.([0-9]{1,14})"
    r"\{((?:[0-9]{1,3}:[0-9]{1,19}(?:,[0-9]{1,3}:[0-9]{1,19})*)?)\}"
)


@dataclass(frozen=True, slots=True)
class ResultCursor:
    """What a client holds: of which query, what it held, and when."""

    query: int
    digest: int
    moment: Moment

    def __str__(self) -> str:
        seqs = ",".join(f"{group}:{seq}" for group, seq in self.moment.seqs)
        return f"r1.{self.query:016x}.{self.digest:016x}.{self.moment.wall_ms}{{{seqs}}}"

    @staticmethod
    def parse(text: str) -> ResultCursor:
        """Raises ValueError."""
        found = _CURSOR.fullmatch(text) if len(text) <= CURSOR_LENGTH_MAX else None
        if found is None:
            raise ValueError("this is no cursor")
        pairs = [pair.split(":") for pair in found[4].split(",") if pair]
        seqs = tuple((GroupId(int(group)), Seq(int(seq))) for group, seq in pairs)
        groups = [group for group, _ in seqs]
        if groups != sorted(set(groups)) or any(
            group >= GROUPS_MAX or seq > SEQ_MAX for group, seq in seqs
        ):
            raise ValueError("this is no cursor")
        moment = Moment(seqs, int(found[3]))
        return ResultCursor(int(found[1], 16), int(found[2], 16), moment)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """`names` are of the columns in `listing.rows`, which are JSON objects."""

    columns: tuple[OutputColumn, ...]
    listing: Listing
    key: tuple[str, ...] | None
    cursor: ResultCursor
    size_bytes: int


def query_id(plan: ReevaluatedPlan, partition: Partition) -> int:
    """Names a query of one tenant; other queries have other ids, but for a hash's odds."""
    return xxhash.xxh3_64_intdigest(partition + b"\0" + plan.identity.encode())


def result_of(plan: ReevaluatedPlan, evaluated: Evaluated, query: int) -> Result:
    """Raises InvalidStatement when two columns have one name: rows are objects."""
    names = [column.name for column in evaluated.columns]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise InvalidStatement(
                f"two columns of this live query are named {name}; rows are objects: "
                "give one of them an alias"
            )
    values = orjson.loads(b"[" + b",".join(evaluated.parts) + b"]")
    rows = tuple([orjson.dumps(dict(zip(names, row, strict=True))) for row in values])
    at = _key_places(plan.key, names)
    keys: tuple[bytes, ...] | None = None
    if at is not None:
        keys = tuple([orjson.dumps([row[one] for one in at]) for row in values])
        if len(set(keys)) < len(keys):
            keys = None  # they tell nothing apart here
    digest = _digest(names, rows, ordered=plan.ordered)
    return Result(
        evaluated.columns,
        Listing(rows, keys, plan.ordered),
        None if at is None else tuple(names[one] for one in at),
        ResultCursor(query, digest, evaluated.moment),
        sum(map(len, rows)) + (0 if keys is None else sum(map(len, keys))),
    )


def _key_places(key: Sequence[str | int] | None, names: Sequence[str]) -> list[int] | None:
    """Positions of the key in a row; None when the result does not hold all of it."""
    if key is None:
        return None
    places = [one if isinstance(one, int) else _place(one, names) for one in key]
    return places if all(0 <= place < len(names) for place in places) else None


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else -1


def _digest(names: Sequence[str], rows: Sequence[bytes], *, ordered: bool) -> int:
    """64 bits of the columns and the rows: as a list, or as a bag."""
    hash_of = xxhash.xxh3_64_intdigest
    found = hash_of(orjson.dumps(names))
    if ordered:
        state = xxhash.xxh3_64(seed=found)
        for row in rows:
            state.update(row)
            state.update(b"\n")
        return state.intdigest()
    return (found + sum(map(hash_of, rows))) & (1 << 64) - 1
