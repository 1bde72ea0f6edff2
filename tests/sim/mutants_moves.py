"""The clauses of core.md §10, each left out: what the simulation of slot moves must notice.

`FIRST_SEED` names a seed that notices it (`python -m tests.sim.mutants_moves` looks for one).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from cluster import moves as driving
from kalamdb.decide import moves, purge, sequencer, slots
from kalamdb.decide.draft import Draft
from kalamdb.decide.slots import _arriving, _cut, _put, _record
from kalamdb.decide.standing import Standing
from kalamdb.model import codec, keys
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq, Slot
from kalamdb.model.keys import Family
from kalamdb.model.slot_work import (
    ImportBegin,
    ImportChunk,
    ImportClear,
    SlotFreeze,
    SlotOpen,
    SlotPurge,
    SlotThaw,
)
from kalamdb.replica import replica as replicas
from kalamdb.replica.slot_image import SlotImage
from kalamdb.store import slot_keys
from kalamdb.store.changes import change_floor
from kalamdb.store.slot_codec import Arrival, ArrivalState, SlotRecord, SlotState
from kalamdb.store.slot_keys import SlotWalk
from kalamdb.store.slots import SlotTable
from tests.sim import moves as simulation
from tests.sim import moves_seats

Patches = Callable[[], list[Any]]
MUTANTS: dict[str, Patches] = {}


def mutant(make: Patches) -> Patches:
    MUTANTS[make.__name__] = make
    return make


# ---- reads ---------------------------------------------------------------------------------------


@mutant
def frozen_reads_ask_nobody() -> list[Any]:
    """The source serves reads of a frozen slot without a read index of meta."""

    async def allowed(self: object, slot: Slot, epoch: int) -> bool:
        return True

    return [patch.object(moves_seats.Seat, "_meta_allows", allowed)]


@mutant
def reads_where_it_is_not_open() -> list[Any]:
    """Reads of a slot that is importing or purging are served."""
    return [patch.object(SlotTable, "check_read", lambda self, partition: None)]


@mutant
def slow_work_names_no_slots() -> list[Any]:
    """A read set names no slots, and its snapshot may be of a slot on its way."""
    return [
        patch.object(SlotTable, "check_read", lambda self, partition: None),
        patch.object(SlotTable, "open_epoch", lambda self, partition: 0),
        patch.object(Standing, "check_slots", lambda self, seen: None),
    ]


# ---- the image -----------------------------------------------------------------------------------


@mutant
def begins_over_what_is_left() -> list[Any]:
    """ImportBegin is accepted while keys of the slot are left there."""

    def begin(draft: Draft, work: ImportBegin) -> Outcome:
        record = _record(draft, work.slot)
        if record is not None and record.state is SlotState.OPEN:
            return slots_begin(draft, work)
        arrival = Arrival(work.attempt, ArrivalState.FILLING, work.head)
        begun = SlotRecord(work.epoch, SlotState.IMPORTING, work.head.cut, work.source, arrival)
        _put(draft, work.slot, begun)
        return Outcome(1, draft.seq)

    def clear(draft: Draft, work: ImportClear, *, reader: Any) -> Outcome:
        """As if nothing had to be removed."""
        record, arrival = _arriving(draft, work)
        cleared = replace(arrival, state=ArrivalState.CLEAR)
        _put(draft, work.slot, replace(record, arrival=cleared))
        return Outcome(0, draft.seq)

    slots_begin = slots.import_begin
    return [patch.object(slots, "import_begin", begin), patch.object(slots, "import_clear", clear)]


def _image_without(*families: Family) -> list[Any]:
    found = SlotWalk.pairs

    def pairs(self: SlotWalk, *, dropped: bool = True) -> Iterator[tuple[bytes, bytes]]:
        for key, value in found(self, dropped=dropped):
            if dropped or key[0] not in families:
                yield key, value

    return [patch.object(SlotWalk, "pairs", pairs)]


@mutant
def image_without_requests() -> list[Any]:
    """Request ids stay behind."""
    return _image_without(Family.REQUEST, Family.REQUEST_HOUR)


@mutant
def image_without_unique() -> list[Any]:
    """UNIQUE entries stay behind."""
    return _image_without(Family.UNIQUE)


@mutant
def image_without_history() -> list[Any]:
    """Superseded versions stay behind."""
    return _image_without(Family.HISTORY)


@mutant
def image_without_expiry() -> list[Any]:
    """When STREAM rows pass stays behind."""
    return _image_without(Family.EXPIRY)


@mutant
def image_without_index() -> list[Any]:
    """Index entries stay behind."""
    return _image_without(Family.INDEX)


@mutant
def image_before_the_freeze() -> list[Any]:
    """The image is of a snapshot from before the freeze was applied."""
    made = SlotImage.__init__
    old: dict[int, Any] = {}

    def init(self: SlotImage, snapshot: Any, slot: Slot, epoch: int) -> None:
        made(self, snapshot, slot, epoch)
        self._snapshot = old.pop(epoch, snapshot)

    def freeze(draft: Draft, work: SlotFreeze) -> Outcome:
        world = simulation.MovesWorld.playing
        assert world is not None
        if work.epoch not in old:
            old[work.epoch] = world.seats.seats[int(draft.group)].store.snapshot()
        return frozen(draft, work)

    frozen = slots.freeze
    return [patch.object(SlotImage, "__init__", init), patch.object(slots, "freeze", freeze)]


@mutant
def pieces_of_several_snapshots() -> list[Any]:
    """A piece of another attempt's image is accepted, and a piece out of its turn."""
    real = slots.import_chunk

    def chunk(draft: Draft, work: ImportChunk) -> Outcome:
        record = _record(draft, work.slot)
        arrival = None if record is None else record.arrival
        if arrival is None or arrival.state is not ArrivalState.FILLING:
            return real(draft, work)
        piece = replace(work.piece, after=arrival.upto)
        return real(draft, replace(work, attempt=arrival.attempt, piece=piece))

    return [patch.object(slots, "import_chunk", chunk)]


# ---- opening -------------------------------------------------------------------------------------


@mutant
def opens_below_the_cut() -> list[Any]:
    """seq_last does not go up to the cut."""

    def numbers_from(least: Seq, group: int) -> Seq:
        return Seq(0)

    def opened(draft: Draft, work: SlotOpen, *, reader: Any) -> Outcome:
        before = draft.seq
        with patch.object(slots, "numbers_from", numbers_from):
            outcome = real(draft, work, reader=reader)
        draft.seq = before
        return outcome

    real = slots.open_slot
    return [patch.object(slots, "open_slot", opened)]


@mutant
def opens_with_the_others_bits() -> list[Any]:
    """seq_last is the cut itself, with the source's group bits."""
    return [patch.object(slots, "numbers_from", lambda least, group: least)]


@mutant
def opens_with_its_own_floor() -> list[Any]:
    """The change floor does not go up to the source's."""
    real = slots.open_slot

    def opened(draft: Draft, work: SlotOpen, *, reader: Any) -> Outcome:
        floor = change_floor(draft)
        outcome = real(draft, work, reader=reader)
        if outcome.affected:
            draft.put(keys.CHANGE_FLOOR, codec.encode_seq(floor))
        return outcome

    return [patch.object(slots, "open_slot", opened)]


@mutant
def opens_with_a_floor_above_the_cut() -> list[Any]:
    """The source's floor is not capped by the cut, nor by anything."""
    real = slots.open_slot

    def opened(draft: Draft, work: SlotOpen, *, reader: Any) -> Outcome:
        outcome = real(draft, work, reader=reader)
        if outcome.affected:
            draft.put(keys.CHANGE_FLOOR, codec.encode_seq(Seq(draft.seq + (3_600_000 << 22))))
        return outcome

    return [patch.object(slots, "open_slot", opened)]


@mutant
def opens_before_it_is_complete() -> list[Any]:
    """The record says open before the image is complete."""
    real = driving.Driver._import

    async def carried(self: Any, move: Any, view: Any) -> None:
        target = await self._groups.slot(move.target, move.slot)
        arrival = None if target is None or target.epoch != move.epoch else target.arrival
        if arrival is not None and arrival.state is ArrivalState.FILLING:
            finish = driving.FinishMove(move.slot, move.epoch, ())
            await self._groups.write_meta(finish)
            return
        await real(self, move, view)

    def opened(draft: Draft, work: SlotOpen, *, reader: Any) -> Outcome:
        record = _record(draft, work.slot)
        if record is not None and record.arrival is not None and record.epoch == work.epoch:
            complete = replace(record.arrival, state=ArrivalState.COMPLETE)
            _put(draft, work.slot, replace(record, arrival=complete))
            with patch.object(slots, "_require_applied", lambda *_: None):
                return real_open(draft, work, reader=reader)
        return real_open(draft, work, reader=reader)

    real_open = slots.open_slot
    return [
        patch.object(driving.Driver, "_import", carried),
        patch.object(slots, "open_slot", opened),
    ]


@mutant
def definitions_need_no_rest() -> list[Any]:
    """The move is finished whatever definitions did since the image."""

    async def finish(self: Any, move: Any, arrival: Any, view: Any) -> None:
        finished = driving.FinishMove(move.slot, move.epoch, ())
        await self._groups.write_meta(finished)

    return [patch.object(driving.Driver, "_finish", finish)]


# ---- the record, epochs --------------------------------------------------------------------------


@mutant
def two_ends_of_a_move() -> list[Any]:
    """An aborted move is finished, and a finished one aborted."""

    def end(draft: Draft, asked: Any, catalog: Any) -> Outcome:
        move = catalog.moves.get(asked.slot)
        if move is not None and move.epoch == asked.epoch:
            other = replace(move, state=driving.MoveState.MOVING)
            catalog = replace(catalog, moves={**catalog.moves, asked.slot: other})
        if isinstance(asked, driving.FinishMove):
            return finish(draft, asked, catalog)
        return abort(draft, asked, catalog)

    finish, abort = moves.finish_move, moves.abort_move
    return [patch.object(moves, "finish_move", end), patch.object(moves, "abort_move", end)]


@mutant
def a_late_freeze() -> list[Any]:
    """SlotFreeze does not look at the epoch."""

    def freeze(draft: Draft, work: SlotFreeze) -> Outcome:
        record = _record(draft, work.slot)
        if record is not None and record.state is SlotState.OPEN and record.epoch >= work.epoch:
            frozen = SlotRecord(work.epoch, SlotState.FROZEN, draft.seq, work.target)
            _put(draft, work.slot, frozen)
            return _cut(1, draft, frozen.cut)
        return real(draft, work)

    real = slots.freeze
    return [patch.object(slots, "freeze", freeze)]


@mutant
def a_thaw_without_the_record() -> list[Any]:
    """The source thaws although the move may still be finished."""
    real = driving.Driver._import

    async def carried(self: Any, move: Any, view: Any) -> None:
        if move.epoch % 3 == 0:
            await self._groups.write(move.source, SlotThaw(move.slot, move.epoch))
        await real(self, move, view)

    return [patch.object(driving.Driver, "_import", carried)]


@mutant
def an_aborted_target_keeps_its_keys() -> list[Any]:
    """After an abort the target is not purged."""

    def purged(draft: Draft, work: SlotPurge, *, reader: Any) -> Outcome:
        record = _record(draft, work.slot)
        if record is not None and record.state is SlotState.IMPORTING:
            _put(draft, work.slot, SlotRecord(work.epoch, SlotState.GONE))
            return Outcome(0, draft.seq)
        return real(draft, work, reader=reader)

    real = slots.purge
    return [patch.object(slots, "purge", purged)]


@mutant
def a_purge_from_an_old_snapshot() -> list[Any]:
    """A walk of a purge begins before the slot is given up."""

    async def cleared(replica: Any, snapshot: Any, steps: Any, keys_max: int) -> bool:
        view = snapshot()
        found = [key for key, _ in SlotWalk(view, steps.slot).pairs()]
        view.close()
        await replica.write(steps.work(tuple(found[: len(found) // 2]), done=False))
        await replica.write(steps.work(done=True))
        return True

    return [patch.object(replicas, "clear_slot", cleared)]


# ---- what else writes ----------------------------------------------------------------------------


@mutant
def writes_while_frozen() -> list[Any]:
    """The sequencer goes on deciding rows of a frozen slot."""
    real = Standing.chain_for_write

    def chain(self: Standing, table: Any, partition: Any) -> Any:
        slot = slots_of(partition)
        record = self.record(slot)
        if record is not None and record.state is SlotState.FROZEN:
            return self.chain(table, partition)
        return real(self, table, partition)

    slots_of = slot_keys.slot_of
    return [patch.object(Standing, "chain_for_write", chain)]


@mutant
def trims_what_is_held() -> list[Any]:
    """Trims and expiry work on slots that are on their way."""
    trim, expire = purge.trim_before, purge.expire_rows

    def trimmed(draft: Any, work: Any, *, reader: Any, held: Any = frozenset()) -> Outcome:
        return trim(draft, work, reader=reader)

    def expired(draft: Any, work: Any, plan: Any, **named: Any) -> Outcome:
        return expire(draft, work, plan, **{**named, "held": frozenset()})

    return [
        patch.object(purge, "trim_before", trimmed),
        patch.object(purge, "expire_rows", expired),
    ]


@mutant
def chains_are_remembered() -> list[Any]:
    """A group that gets a slot back goes on with the chains it knew."""
    real = Standing._learn_slot

    def learn(self: Standing, key: bytes, value: bytes | None) -> None:
        kept = dict(self._chains)
        real(self, key, value)
        self._chains.update(kept)

    return [patch.object(Standing, "_learn_slot", learn)]


@mutant
def request_ids_are_free_again() -> list[Any]:
    """A request id stands nowhere."""
    return [patch.object(sequencer.Sequencer, "_repeated", lambda self, key, tag, waiter: False)]


@mutant
def pieces_are_published() -> list[Any]:
    """The changes in an image are told to streams as if they happened."""

    def publish(self: Any, puts: Any, seq: Seq) -> None:
        self._publish([effect for effect in puts if effect[0][0] == Family.CHANGE], puts, seq)

    return [patch.object(replicas.Machine, "_publish_moving", publish)]


@mutant
def streams_do_not_end() -> list[Any]:
    """The source's streams go on when the slot has gone."""
    return [patch.object(moves_seats.StreamSink, "close_slots", lambda self, slots, detail: None)]


def fault_of(name: str, seed: int) -> str | None:
    """What the world of `seed` says against a mutant; None: nothing."""
    with ExitStack() as stack:
        for one in MUTANTS[name]():
            stack.enter_context(one)
        try:
            report = simulation.run(seed)
        except Exception as error:  # noqa: BLE001 — a mutant may break anything
            return repr(error)
    faults = [fault for fault in report.faults if not fault.startswith("vacuous")]
    return faults[0] if faults else None


FIRST_SEED: Mapping[str, int] = {
    "frozen_reads_ask_nobody": 0,
    "reads_where_it_is_not_open": 0,
    "slow_work_names_no_slots": 0,
    "begins_over_what_is_left": 1,
    "image_without_requests": 0,
    "image_without_unique": 0,
    "image_without_history": 0,
    "image_without_expiry": 0,
    "image_without_index": 1,
    "image_before_the_freeze": 0,
    "pieces_of_several_snapshots": 0,
    "opens_below_the_cut": 0,
    "opens_with_the_others_bits": 0,
    "opens_with_its_own_floor": 9,
    "opens_with_a_floor_above_the_cut": 0,
    "opens_before_it_is_complete": 0,
    "definitions_need_no_rest": 0,
    "two_ends_of_a_move": 0,
    "a_late_freeze": 1,
    "a_thaw_without_the_record": 2,
    "an_aborted_target_keeps_its_keys": 0,
    "a_purge_from_an_old_snapshot": 0,
    "writes_while_frozen": 0,
    "trims_what_is_held": 0,
    "chains_are_remembered": 0,
    "request_ids_are_free_again": 0,
    "pieces_are_published": 0,
    "streams_do_not_end": 0,
}


def main() -> None:
    names = sys.argv[1:] or list(MUTANTS)
    for name in names:
        for seed in range(25):
            fault = fault_of(name, seed)
            if fault is not None:
                print(f'    "{name}": {seed},  # {fault[:110]}', flush=True)
                break
        else:
            print(f"    {name}: not noticed", flush=True)


if __name__ == "__main__":
    main()
