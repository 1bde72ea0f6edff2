"""Linearizability of each key: a search for an order of its operations that explains every answer.

After Wing & Gong (1993) with Lowe's memory of visited states: an operation may take effect at any
moment between its call and its answer; one whose outcome is unknown at any moment after its call,
or never.

Keeps: the verdict is a fault, or none; a search that meets its bound is a fault too, never a pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.sim.history import OPEN_END_S, Elements, Kind, Operation, Result

STEPS_MAX = 400_000

State = Elements | None


def faults(operations: Iterable[Operation]) -> Iterator[str]:
    """One line for each key whose operations no order explains."""
    by_key: dict[tuple[bytes, int], list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.result is Result.FAILED or operation.result is Result.REFUSED_UNIQUE:
            continue
        if operation.kind is Kind.READ and operation.result is not Result.OK:
            continue
        if len(operation.keys) > 1 and operation.result is Result.REFUSED_KEY:
            continue  # one of its keys was taken; which one is not told
        for key in operation.keys:
            by_key[operation.partition, key].append(operation.at(key))
    for (partition, key), found in sorted(by_key.items()):
        why = check(found)
        if why is not None:
            yield f"key {partition.decode()}/{key} is not linearizable: {why}"


def check(operations: list[Operation], steps_max: int = STEPS_MAX) -> str | None:
    """None when some order explains all operations of one key, else what was tried last."""
    order = sorted(operations, key=lambda operation: (operation.start_s, operation.number))
    starts = [operation.start_s for operation in order]
    ends = [_end_s(operation) for operation in order]
    answered = sum(1 << at for at, end_s in enumerate(ends) if end_s != OPEN_END_S)
    by_end = sorted((end_s, at) for at, end_s in enumerate(ends) if end_s != OPEN_END_S)
    stack: list[tuple[int, State]] = [(0, None)]
    seen: set[tuple[int, State]] = set(stack)
    steps, best = 0, 0
    while stack:
        done, state = stack.pop()
        if done & answered == answered:
            return None
        steps += 1
        if steps > steps_max:
            return f"undecided after {steps} steps over {len(order)} operations"
        best = max(best, done, key=lambda mask: (mask & answered).bit_count())
        first_end_s = next(end_s for end_s, at in by_end if not done >> at & 1)
        nexts: list[tuple[float, int, State]] = []
        for at, start_s in enumerate(starts):
            if start_s > first_end_s:
                break
            if done >> at & 1:
                continue
            fits, after = step(state, order[at])
            reached = (done | 1 << at, after)
            if fits and reached not in seen:
                seen.add(reached)
                nexts.append((ends[at], *reached))
        # The one that ended first is tried first: it lies on top.
        nexts.sort(key=lambda item: (-item[0], item[1]))
        stack += [(mask, after) for _, mask, after in nexts]
    stuck = [operation for at, operation in enumerate(order) if not best >> at & 1]
    return f"no place for {_shown(min(stuck, key=lambda operation: operation.end_s))}"


def step(state: State, operation: Operation) -> tuple[bool, State]:
    """Whether the answer fits `state`, and the state after it. An unknown outcome fits if it can
    happen.
    """
    known = operation.result is not Result.UNKNOWN
    own = operation.number
    match operation.kind:
        case Kind.READ:
            return state == operation.found, state
        case Kind.INSERT:
            if operation.result is Result.REFUSED_KEY:
                return state is not None, state
            return state is None, (own,)
        case Kind.APPEND:
            if known and operation.affected == 0:
                return state is None, state
            if state is None:
                return False, None
            after = (*state, own)
            return not known or after == operation.found, after
        case Kind.DELETE:
            if known and operation.affected == 0:
                return state is None, None
            return state is not None and (not known or state == operation.found), None
        case Kind.TRANSFER:
            raise AssertionError("it is looked at key by key")


def _end_s(operation: Operation) -> float:
    return OPEN_END_S if operation.result is Result.UNKNOWN else operation.end_s


def _shown(operation: Operation) -> str:
    span = f"[{operation.start_s:.4f}, {operation.end_s:.4f}]"
    return (
        f"{operation.kind.name} {operation.number} {span} "
        f"{operation.result.name} affected={operation.affected} found={operation.found}"
    )
