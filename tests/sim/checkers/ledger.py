"""Acknowledged writes are in the log once, refused and failed ones never, none twice.

A write is found in the committed log by its operation number, which its rows end with, or by its
request key. A refusal for a UNIQUE value must be explained by a committed row that had the value
meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.history import Kind, Operation, Result
from tests.sim.reference import GroupReference

Committed = dict[int, list[tuple[int, int]]]  # operation → (group, index) of its commands


def committed(references: list[GroupReference]) -> Committed:
    """Where each operation's commands stand."""
    found: Committed = {}
    for reference in references:
        for command in reference.commands:
            for number in command.operations:
                found.setdefault(number, []).append((reference.group, command.index))
    return found


def faults(operations: list[Operation], references: list[GroupReference]) -> Iterator[str]:
    where = committed(references)
    seqs = {
        number: command.seq
        for reference in references
        for command in reference.commands
        for number in command.operations
    }
    for operation in operations:
        if not operation.writes:
            continue
        places = where.get(operation.number, [])
        name = f"{operation.kind.name} {operation.number} ({operation.result.name})"
        if len(places) > 1:
            yield f"{name} was executed {len(places)} times: {places}"
        match operation.result:
            case Result.OK if operation.affected > 0:
                if not places:
                    yield f"{name} was acknowledged at {operation.end_s:.4f} and is lost"
                elif (seq := seqs[operation.number]) != operation.seq:
                    yield f"{name} answered seq {operation.seq}, the log has {seq}"
            case Result.OK | Result.UNKNOWN:
                pass
            case Result.FAILED | Result.REFUSED_KEY | Result.REFUSED_UNIQUE:
                if places:
                    yield f"{name} was answered as not done and is in the log at {places}"
    yield from unknown_writes(operations, where)
    yield from unjustified(operations, references)
    yield from reused(references)


def unknown_writes(operations: list[Operation], where: Committed) -> Iterator[str]:
    """Something in the log that nobody asked for."""
    asked = {operation.number for operation in operations if operation.writes}
    for number in where:
        if number not in asked:
            yield f"the log holds operation {number}, which nobody asked for"


def unjustified(operations: list[Operation], references: list[GroupReference]) -> Iterator[str]:
    """UNIQUE refusals while no other row had the value."""
    for operation in operations:
        if operation.result is not Result.REFUSED_UNIQUE or operation.kind is not Kind.INSERT:
            continue
        spans = [
            span
            for reference in references
            for span in reference.unique_spans.get((operation.partition, operation.unique), ())
        ]
        if not any(
            span.from_s <= operation.end_s and span.to_s >= operation.start_s for span in spans
        ):
            yield (
                f"INSERT {operation.number} was refused for the UNIQUE value {operation.unique} "
                f"in [{operation.start_s:.4f}, {operation.end_s:.4f}], which no committed row had"
            )


def reused(references: list[GroupReference]) -> Iterator[str]:
    """A request key executed more than once."""
    for reference in references:
        seen: dict[bytes, int] = {}
        for command in reference.commands:
            key = command.request_key
            if key is None:
                continue
            if key in seen:
                at = (seen[key], command.index)
                yield f"group {reference.group}: request {key!r} was executed at {at}"
            seen[key] = command.index
