"""Slot moves, driven on the node that leads meta (core.md §10).

A round of a move reads its record in meta and the slot's records in both groups, and does the one
thing that is due:

    MOVING   freeze at the source → image → target complete → FinishMove, or AbortMove
    OPENED   open at the target → purge at the source → EndMove
    ABORTED  thaw at the source → purge at the target → EndMove

Keeps:
- All state is in the records: the driver may die anywhere, and two may drive at once.
- What needs `OPENED` or `ABORTED` is sent only after that was read from meta, after a read index.
- A slot stays frozen for at most about `frozen_max_s`; then the move is aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

import structlog

from cluster.membership import MoveProgress
from cluster.placement import SlotMove
from kalamdb.errors import Conflict, KalamError
from kalamdb.lib.clock import Clock
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Slot
from kalamdb.model.slot import Move, MoveState, SlotHead, SlotPiece
from kalamdb.model.slot_work import (
    AbortMove,
    BeginMove,
    EndMove,
    FinishMove,
    ImportBegin,
    ImportChunk,
    ImportClear,
    SlotFreeze,
    SlotOpen,
    SlotPurge,
    SlotThaw,
)
from kalamdb.model.work import Work
from kalamdb.store.slot_codec import Arrival, ArrivalState, SlotRecord, SlotState

log: Any = structlog.get_logger("moves")

Pause = Callable[[float], Awaitable[None]]


class MoveGroups(Protocol):
    """What a driver asks of meta and of the groups' leaders, wherever they are.

    Everything raises Unavailable, Indeterminate and what the other side refuses; it may be asked
    again then, because each command may be.
    """

    async def catalog(self) -> CatalogView:
        """After a read index of meta."""
        ...

    async def write_meta(self, work: Work) -> Outcome: ...

    async def write(self, group: GroupId, work: Work) -> Outcome:
        """Decided by the group's leader (`Replica.write`)."""
        ...

    async def slot(self, group: GroupId, slot: Slot) -> SlotRecord | None:
        """As the group's leader has it, after a read index (`Replica.slot`)."""
        ...

    def image(self, group: GroupId, slot: Slot, epoch: int) -> AsyncGenerator[SlotHead | SlotPiece]:
        """The head, then the pieces of one image (`replica.slot_image.image_stream`)."""
        ...

    async def purge(self, group: GroupId, slot: Slot, epoch: int, attempt: int | None) -> bool:
        """A bounded part of it, at the group's leader (`Replica.purge_slot`); True: all is gone."""
        ...


def allows_reads(view: CatalogView, slot: Slot, epoch: int) -> bool:
    """May the group in which the slot is frozen answer reads? `view` is read after a read index."""
    move = view.moves.get(slot)
    return move is not None and move.epoch == epoch and move.state is not MoveState.OPENED


@dataclass(frozen=True, slots=True)
class MoveSettings:
    """`bytes_per_s` is shared by all moves; `images_max`: as many images are taken of one slot."""

    at_once: int = 4
    bytes_per_s: int = 32 << 20
    frozen_max_s: float = 60.0
    images_max: int = 20
    retry_s: float = 0.2
    idle_s: float = 0.5


class Pace:
    """At most so many bytes in a second, over all who ask."""

    def __init__(self, clock: Clock, pause: Pause, bytes_per_s: int) -> None:
        self._clock = clock
        self._pause = pause
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    async def wait_turn(self, size_bytes: int) -> None:
        """Returns when the bytes before these have had their time."""
        now_s = self._clock.monotonic_s()
        begin_s = max(now_s, self._free_at_s)
        self._free_at_s = begin_s + size_bytes / self._bytes_per_s
        if begin_s > now_s:
            await self._pause(begin_s - now_s)


class Driver:
    """Drives one move at a time to its end; `drive` may run for many slots at once."""

    def __init__(
        self,
        groups: MoveGroups,
        clock: Clock,
        settings: MoveSettings,
        *,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._groups = groups
        self._clock = clock
        self._settings = settings
        self._pause = pause
        self._pace = Pace(clock, pause, settings.bytes_per_s)
        self._frozen_since_s: dict[tuple[Slot, int], float] = {}
        self.progress: dict[Slot, MoveProgress] = {}

    async def drive(self, slot: Slot) -> None:
        """Returns when the slot is in no move. Raises Unavailable, Indeterminate: drive again."""
        try:
            while await self.round(slot):
                pass
        finally:
            self.progress.pop(slot, None)

    async def round(self, slot: Slot) -> bool:
        """One round; False when there is no move."""
        view = await self._groups.catalog()
        move = view.moves.get(slot)
        if move is None:
            self._forget(slot)
            return False
        try:
            match move.state:
                case MoveState.MOVING:
                    await self._carry(move, view)
                case MoveState.OPENED:
                    await self._open(move)
                case MoveState.ABORTED:
                    await self._undo(move)
                case _:
                    assert_never(move.state)
        except Conflict as refused:
            # Another state than was read: somebody else drives too, or a definition came between.
            log.info("slot_move_waited", slot=slot, epoch=move.epoch, reason=str(refused))
            await self._pause(self._settings.retry_s)
        return True

    def _forget(self, slot: Slot) -> None:
        for known in [known for known in self._frozen_since_s if known[0] == slot]:
            del self._frozen_since_s[known]

    # ---- MOVING ---------------------------------------------------------------------------------

    async def _carry(self, move: Move, view: CatalogView) -> None:
        source = await self._groups.slot(move.source, move.slot)
        if source is None or source.epoch > move.epoch:
            return await self._abort(move, "the source does not have the slot")
        if source.state is SlotState.OPEN:
            self._tell(move, "freezing")
            if any(table in view.tables_by_id for table in view.pending):
                # It would have to wait for the definition frozen.
                return await self._pause(self._settings.retry_s)
            await self._groups.write(move.source, SlotFreeze(move.slot, move.epoch, move.target))
            return None
        if (source.state, source.epoch) != (SlotState.FROZEN, move.epoch):
            return await self._abort(move, "the source does not have the slot")
        since_s = self._frozen_since_s.setdefault(
            (move.slot, move.epoch), self._clock.monotonic_s()
        )
        if self._clock.monotonic_s() - since_s > self._settings.frozen_max_s:
            return await self._abort(move, "it took too long")
        return await self._import(move, view)

    async def _import(self, move: Move, view: CatalogView) -> None:
        target = await self._groups.slot(move.target, move.slot)
        arrival = None if target is None or target.epoch != move.epoch else target.arrival
        if arrival is None:
            is_free = target is None or target.state is SlotState.GONE
            if not is_free or (target is not None and target.epoch >= move.epoch):
                return await self._abort(move, "the target cannot take the slot")
            return await self._fill(move, attempt=1)
        if arrival.attempt > self._settings.images_max:
            return await self._abort(move, f"{arrival.attempt} images were of no use")
        match arrival.state:
            case ArrivalState.FILLING:
                # Who began it is gone, and its snapshot with it.
                return await self._clear(move, arrival)
            case ArrivalState.COMPLETE:
                return await self._finish(move, arrival, view)
            case ArrivalState.CLEARING:
                self._tell(move, "clearing", arrival)
                await self._groups.purge(move.target, move.slot, move.epoch, arrival.attempt)
                return None
            case ArrivalState.CLEAR:
                return await self._fill(move, attempt=arrival.attempt + 1)
            case _:
                assert_never(arrival.state)

    async def _fill(self, move: Move, *, attempt: int) -> None:
        """One image, from its beginning to its end."""
        keys = size_bytes = chains = 0
        slot, epoch, target = move.slot, move.epoch, move.target
        async with aclosing(self._groups.image(move.source, slot, epoch)) as parts:
            async for part in parts:
                match part:
                    case SlotHead():
                        chains = part.chains
                        begin = ImportBegin(slot, epoch, move.source, attempt, part)
                        await self._groups.write(target, begin)
                    case SlotPiece():
                        piece_bytes = sum(len(key) + len(raw) for key, raw in part.pairs)
                        await self._pace.wait_turn(piece_bytes)
                        await self._groups.write(target, ImportChunk(slot, epoch, attempt, part))
                        keys += len(part.pairs)
                        size_bytes += piece_bytes
                        self._tell_copying(move, (keys, size_bytes), part.chains, chains)
                    case _:
                        assert_never(part)

    async def _clear(self, move: Move, arrival: Arrival) -> None:
        complete = arrival.state is ArrivalState.COMPLETE
        clear = ImportClear(move.slot, move.epoch, arrival.attempt, complete)
        await self._groups.write(move.target, clear)

    async def _finish(self, move: Move, arrival: Arrival, view: CatalogView) -> None:
        self._tell(move, "finishing", arrival)
        tables = arrival.head.tables
        if any(
            (active := view.tables_by_id.get(table)) is not None and active.version != version
            for table, version in tables
        ):
            return await self._clear(move, arrival)
        await self._groups.write_meta(FinishMove(move.slot, move.epoch, tables))
        log.info("slot_moved", slot=move.slot, source=move.source, target=move.target)
        return None

    async def _abort(self, move: Move, reason: str) -> None:
        await self._groups.write_meta(AbortMove(move.slot, move.epoch))
        log.warning("slot_move_aborted", slot=move.slot, epoch=move.epoch, reason=reason)

    # ---- after the record -----------------------------------------------------------------------

    async def _open(self, move: Move) -> None:
        target = await self._groups.slot(move.target, move.slot)
        if target is not None and target.state is SlotState.IMPORTING:
            self._tell(move, "opening", target.arrival)
            opening = SlotOpen(move.slot, move.epoch, target.cut)
            await self._groups.write(move.target, opening)
            return
        if target is None or (target.state, target.epoch) != (SlotState.OPEN, move.epoch):
            raise Conflict(f"group {move.target} has slot {move.slot} in a state of no move")
        await self._give_up(move, move.source)

    async def _undo(self, move: Move) -> None:
        source = await self._groups.slot(move.source, move.slot)
        if source is None or (source.state, source.epoch) != (SlotState.OPEN, move.epoch):
            self._tell(move, "thawing")
            await self._groups.write(move.source, SlotThaw(move.slot, move.epoch))
        await self._give_up(move, move.target)

    async def _give_up(self, move: Move, group: GroupId) -> None:
        record = await self._groups.slot(group, move.slot)
        if record is not None and (record.state, record.epoch) == (SlotState.GONE, move.epoch):
            await self._groups.write_meta(EndMove(move.slot, move.epoch))
            return
        self._tell(move, "purging")
        if record is None or (record.state, record.epoch) != (SlotState.PURGING, move.epoch):
            await self._groups.write(group, SlotPurge(move.slot, move.epoch))
            return
        await self._groups.purge(group, move.slot, move.epoch, None)

    # ---- progress -------------------------------------------------------------------------------

    def _tell_copying(self, move: Move, done: tuple[int, int], chains: int, of_chains: int) -> None:
        """Totals are reckoned from the chains that are through."""
        share = chains / of_chains if of_chains else 1.0
        self._tell(
            move,
            "copying",
            done=done,
            total=(int(done[0] / share), int(done[1] / share)) if share else (0, 0),
        )

    def _tell(
        self,
        move: Move,
        state: str,
        arrival: Arrival | None = None,
        *,
        done: tuple[int, int] = (0, 0),
        total: tuple[int, int] = (0, 0),
    ) -> None:
        if arrival is not None:
            done = total = arrival.keys, arrival.size_bytes
        self.progress[move.slot] = MoveProgress(
            "slot",
            move.source,
            int(move.source),
            int(move.target),
            state,
            int(move.slot),
            keys_done=done[0],
            keys_total=total[0],
            bytes_done=done[1],
            bytes_total=total[1],
            started_ms=move.started_ms,
            updated_ms=self._clock.wall_ms(),
        )


def waiting_move(move: Move) -> MoveProgress:
    """One that nobody drives at the moment."""
    return MoveProgress(
        "slot",
        move.source,
        int(move.source),
        int(move.target),
        "waiting",
        int(move.slot),
        started_ms=move.started_ms,
        updated_ms=move.started_ms,
    )


@dataclass(slots=True)
class _Running:
    """`tried`: when each was begun last, so that one that cannot go on keeps no other waiting."""

    tasks: dict[Slot, asyncio.Task[None]] = field(default_factory=dict[Slot, asyncio.Task[None]])
    tried: dict[Slot, int] = field(default_factory=dict[Slot, int])
    count: int = 0


class Moves:
    """The job on every node: drives all moves in flight while this one leads meta, `at_once` at a
    time, those that began first before the others. Implements `control.MovesSlots`.
    """

    def __init__(
        self,
        groups: MoveGroups,
        leads: Callable[[], bool],
        clock: Clock,
        settings: MoveSettings,
        *,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._groups = groups
        self._leads = leads
        self._settings = settings
        self._pause = pause
        self._driver = Driver(groups, clock, settings, pause=pause)

    async def begin(self, move: SlotMove) -> None:
        """Under way once this returns. Raises what refuses it."""
        await self._groups.write_meta(BeginMove(move.slot, move.source, move.target))

    def progress(self, known: Iterable[Move] = ()) -> list[MoveProgress]:
        """Empty on nodes that do not lead meta. `known` are those of the catalog: what is not
        driven just now waits.
        """
        if not self._leads():
            return []
        driven = self._driver.progress
        waiting = [waiting_move(move) for move in known if move.slot not in driven]
        return [*driven.values(), *waiting]

    async def run(self) -> None:
        """Until cancelled."""
        running = _Running()
        async with asyncio.TaskGroup() as tasks:
            while True:
                if self._leads():
                    await self._look(tasks, running)
                else:
                    for task in running.tasks.values():
                        task.cancel()
                await self._pause(self._settings.idle_s)

    async def _look(self, tasks: asyncio.TaskGroup, running: _Running) -> None:
        for slot in [slot for slot, task in running.tasks.items() if task.done()]:
            del running.tasks[slot]
        try:
            view = await self._groups.catalog()
        except KalamError as error:
            log.info("moves_not_seen", reason=str(error))
            return
        tried = running.tried = {s: n for s, n in running.tried.items() if s in view.moves}
        moves = view.moves.values()
        for move in sorted(moves, key=lambda move: (tried.get(move.slot, 0), move.epoch)):
            if len(running.tasks) >= self._settings.at_once:
                return
            if move.slot not in running.tasks:
                running.count += 1
                tried[move.slot] = running.count
                running.tasks[move.slot] = tasks.create_task(self._drive(move.slot))

    async def _drive(self, slot: Slot) -> None:
        try:
            await self._driver.drive(slot)
        except KalamError as error:
            # The next look drives it on.
            log.info("slot_move_interrupted", slot=slot, reason=str(error))
