"""Clients of a cluster: SQL to any node or router, with retries where a retry is allowed.

Keeps: an operation is `FAILED` only if every attempt was answered as surely not done; after an
attempt nobody knows about it is `UNKNOWN`, unless a retry under the same request id was answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from cluster.remote import LEASE_S
from kalamdb.errors import (
    Conflict,
    Indeterminate,
    KalamError,
    LimitReached,
    Unavailable,
    UniqueViolation,
    UnknownNamespace,
    UnknownTable,
)
from kalamdb.model.ids import Partition, Seq, partition_tenant
from kalamdb.model.principal import Principal, Role
from kalamdb.session.run import SqlRequest
from tests.sim.calls import Calls, Lost, Refused
from tests.sim.cluster.node import DataNode
from tests.sim.cluster.router import Router
from tests.sim.history import History, Kind, Operation, Result
from tests.sim.reference import Violation
from tests.sim.schema import request_id, returned
from tests.sim.timeline import Timeline

ATTEMPTS_MAX = 6
KEYS_AT_ONCE = 3
KEYS_MOVE_AFTER_S = 1.0
THINK_S = (0.002, 0.06)
ROUTERS_SHARE = 0.7
# What was on its way for long, or waited for a process that was stopped, counts as just said.
LEASE_SLACK_S = 4.0
ANSWER_TIMEOUT_S = (0.03, 0.4, 2.5, 2.5, 2.5)
LONG_PAUSE_SHARE = 0.3  # before a retry: a slot may move meanwhile

TEXTS = {
    Kind.INSERT: "INSERT INTO sim.lists (id, numbers) VALUES ($1, $2)",
    Kind.APPEND: (
        "UPDATE sim.lists SET numbers = numbers || ',' || $2 WHERE id = $1 RETURNING numbers"
    ),
    Kind.DELETE: "DELETE FROM sim.lists WHERE id = $1 RETURNING numbers",
    Kind.READ: "SELECT numbers FROM sim.lists WHERE id = $1",
}


@dataclass(slots=True)
class Desk:
    """What clients share. `doors` are the processes they may ask."""

    timeline: Timeline
    dice: Random
    calls: Calls
    nodes: dict[int, DataNode]
    routers: dict[int, Router]
    tenants: list[Partition]
    history: History
    answers: Counter[str] = field(default_factory=Counter[str])
    written: tuple[Partition, int] | None = None
    newer_than: Callable[[int], float] = lambda version: float("inf")  # when one was applied
    numbers: int = 0
    closed: bool = False

    def door(self) -> DataNode | Router:
        doors = self.routers if self.dice.random() < ROUTERS_SHARE else self.nodes
        return self.dice.choice([doors[number] for number in sorted(doors)])

    def live_door(self) -> DataNode | Router:
        return self.door()


async def work_on(desk: Desk) -> None:
    """One client, until the desk closes. It stays at its door while that answers."""
    door = desk.door()
    eager = desk.dice.random() < 0.3
    while not desk.closed:
        await desk.calls.pause(desk.dice.uniform(*THINK_S))
        operation = draw(desk)
        door = await perform(desk, door, operation)
        if not eager and desk.dice.random() < 0.05:
            door = desk.door()


def draw(desk: Desk) -> Operation:
    dice = desk.dice
    partition = dice.choice(desk.tenants)
    first = int(desk.timeline.elapsed_s / KEYS_MOVE_AFTER_S) * KEYS_AT_ONCE
    key = first + dice.randrange(KEYS_AT_ONCE)
    kind = dice.choices((Kind.INSERT, Kind.APPEND, Kind.DELETE, Kind.READ), (25, 35, 8, 32))[0]
    if desk.written is not None and dice.random() < 0.4:
        partition, key = desk.written  # where a stale answer would show
    desk.numbers += 1
    named = kind is Kind.DELETE or dice.random() < 0.6
    return Operation(
        desk.numbers,
        kind,
        partition,
        (key,),
        desk.timeline.now_s,
        request_id=request_id(desk.numbers) if named and kind is not Kind.READ else None,
    )


async def perform(desk: Desk, door: DataNode | Router, operation: Operation) -> DataNode | Router:
    """Do it, with retries at any door, and enter it in the history. The door that answered."""
    desk.history.operations.append(operation)
    maybe = False  # an earlier attempt may have been done
    while operation.attempts < ATTEMPTS_MAX:
        operation.attempts += 1
        result = await attempt(desk, door, operation)
        match result:
            case Result.FAILED:
                if desk.closed:
                    break
                await desk.calls.pause(desk.dice.uniform(0.01, 0.2))
            case Result.UNKNOWN:
                maybe = True
                if operation.request_id is None and operation.writes:
                    break
                away_s = 2.0 if desk.dice.random() < LONG_PAUSE_SHARE else 0.3
                await desk.calls.pause(desk.dice.uniform(0.01, away_s))
            case Result.REFUSED_KEY if maybe:
                break  # answered about this attempt; an earlier one may still have been done
            case _:
                operation.result = result
                operation.end_s = desk.timeline.now_s
                if operation.writes and operation.affected:
                    desk.written = operation.partition, operation.keys[0]
                return door
        door = desk.door()
    operation.result = Result.UNKNOWN if maybe else Result.FAILED
    operation.end_s = desk.timeline.now_s
    return door


def request_of(operation: Operation) -> tuple[Principal, SqlRequest]:
    tenant = partition_tenant(operation.partition)
    assert tenant is not None
    params: list[object] = [operation.keys[0]]
    if operation.kind in (Kind.INSERT, Kind.APPEND):
        params.append(str(operation.number))
    text = TEXTS[operation.kind]
    return Principal.of(tenant, Role.USER), SqlRequest(text, params, None, operation.request_id)


async def attempt(desk: Desk, door: DataNode | Router, operation: Operation) -> Result:
    principal, request = request_of(operation)
    name = f"op {operation.number}"
    version, began_s, age_s = 0, 0.0, 0.0

    async def execute(there: Any) -> bytes:
        nonlocal version, began_s, age_s
        version, began_s = there.edge.catalog_version, desk.timeline.now_s
        age_s = there.catalog_age_s()
        return await there.edge.execute(principal, request)

    try:
        answer = await desk.calls.call(
            door,  # type: ignore[arg-type]
            execute,
            timeout_s=desk.dice.choice(ANSWER_TIMEOUT_S),
        )
    except Refused:
        return Result.FAILED
    except Lost:
        desk.answers["lost"] += 1
        return Result.UNKNOWN
    except KalamError as error:
        desk.timeline.note(f"{name} at {door.node} {type(error).__name__}: {error}")
        desk.answers[type(error).__name__] += 1
        return result_of(error)
    newer_s = desk.newer_than(version)
    waking = began_s < door.life.stopped_until_s + LEASE_S
    if began_s > newer_s + LEASE_S + LEASE_SLACK_S and not waking:
        raise Violation(f"{name} was answered from catalog {version}, old since {newer_s:.2f}")
    if age_s > LEASE_S:
        raise Violation(f"{name} was answered from a catalog that was {age_s:.2f} s old")
    note_answer(operation, answer)
    desk.answers["ok"] += 1
    desk.timeline.note(f"{name} at {door.node} ok {operation.affected}")
    return Result.OK


def result_of(error: KalamError) -> Result:
    match error:
        case Unavailable() | Conflict() | LimitReached() | UnknownTable() | UnknownNamespace():
            return Result.FAILED
        case Indeterminate():
            return Result.UNKNOWN
        case UniqueViolation():
            return Result.REFUSED_KEY
        case _:
            raise error


def note_answer(operation: Operation, answer: bytes) -> None:
    found = orjson.loads(answer)["results"][0]
    rows = found.get("rows") or []
    if operation.kind is Kind.READ:
        operation.found = returned(rows[0][0]) if rows else None
        return
    operation.affected = found["row_count"]
    operation.seq = Seq(int(found["cursor"]))
    if rows:
        operation.found = returned(rows[0][0])
