"""Decisions of meta on slot moves: one record per move, that ends in exactly one way.

Keeps: epochs rise; a slot is in one move at a time; `Placement.moved` changes in the very command
that says the move is finished, and in no other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from kalamdb.decide.draft import Draft
from kalamdb.decide.schema import done, put_record
from kalamdb.errors import Conflict, InvalidStatement, LimitReached
from kalamdb.model import keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import SLOTS, Slot
from kalamdb.model.slot import FIRST_EPOCH, Move, MoveState
from kalamdb.model.slot_work import AbortMove, BeginMove, EndMove, FinishMove, MoveWork
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import encode_placement
from kalamdb.store.slot_codec import encode_move

MOVES_MAX = 4096


def decide_move(draft: Draft, asked: MoveWork, catalog: CatalogView) -> Outcome:
    """Raises what the decision refuses."""
    match asked:
        case BeginMove():
            return begin_move(draft, asked, catalog)
        case FinishMove():
            return finish_move(draft, asked, catalog)
        case AbortMove():
            return abort_move(draft, asked, catalog)
        case EndMove():
            return end_move(draft, asked, catalog)
        case _:
            assert_never(asked)


def begin_move(draft: Draft, asked: BeginMove, catalog: CatalogView) -> Outcome:
    placement = catalog.placed
    if not 0 <= asked.slot < SLOTS:
        raise InvalidStatement(f"a slot is a number from 0 to {SLOTS - 1}")
    if not 1 <= asked.target <= placement.groups or asked.target == asked.source:
        raise InvalidStatement(f"slot {asked.slot} cannot go to group {asked.target}")
    if asked.slot in catalog.moves:
        raise Conflict(f"slot {asked.slot} is moving already")
    if placement.group_of(asked.slot) != asked.source:
        raise Conflict(f"slot {asked.slot} is not group {asked.source}'s")
    if len(catalog.moves) >= MOVES_MAX:
        raise LimitReached("moves", f"{MOVES_MAX} slots are moving; begin more when they have")
    raw = draft.get(records.MOVE_EPOCH_KEY)
    epoch = (FIRST_EPOCH if raw is None else keys.U64.unpack(raw)[0]) + 1
    draft.put(records.MOVE_EPOCH_KEY, keys.U64.pack(epoch))
    move = Move(asked.slot, asked.source, asked.target, epoch, MoveState.MOVING, draft.wall_ms)
    put_record(draft, catalog, records.move_key(asked.slot), encode_move(move))
    return Outcome(1, draft.seq, ("epoch",), ((epoch,),))


def finish_move(draft: Draft, asked: FinishMove, catalog: CatalogView) -> Outcome:
    move = _move(catalog, asked.slot, asked.epoch)
    if move.state is MoveState.OPENED:
        return done(draft, 0)
    if move.state is MoveState.ABORTED:
        raise Conflict(f"the move of slot {asked.slot} was aborted")
    unrest = unrest_of(asked, catalog)
    if unrest is not None:
        raise Conflict(unrest)
    placement = catalog.placement
    assert placement is not None
    moved = {**placement.moved, asked.slot: move.target}
    draft.put(records.PLACEMENT_KEY, encode_placement(replace(placement, moved=moved)))
    return _put_state(draft, catalog, move, MoveState.OPENED)


def unrest_of(asked: FinishMove, catalog: CatalogView) -> str | None:
    """Why the image may lack what a definition did; None: nothing of the kind."""
    for table, version in asked.tables:
        if table in catalog.pending:
            return f"table {table} is being changed"
        active = catalog.tables_by_id.get(table)
        if active is not None and active.version != version:
            return f"table {table} was changed since the image of slot {asked.slot} was taken"
    return None


def abort_move(draft: Draft, asked: AbortMove, catalog: CatalogView) -> Outcome:
    move = _move(catalog, asked.slot, asked.epoch)
    if move.state is MoveState.ABORTED:
        return done(draft, 0)
    if move.state is MoveState.OPENED:
        raise Conflict(f"the move of slot {asked.slot} is finished; move it back")
    return _put_state(draft, catalog, move, MoveState.ABORTED)


def end_move(draft: Draft, asked: EndMove, catalog: CatalogView) -> Outcome:
    found = catalog.moves.get(asked.slot)
    if found is None or found.epoch != asked.epoch:
        return done(draft, 0)
    if found.state is MoveState.MOVING:
        raise Conflict(f"the move of slot {asked.slot} has not ended")
    put_record(draft, catalog, records.move_key(asked.slot), None)
    return done(draft)


def _move(catalog: CatalogView, slot: Slot, epoch: int) -> Move:
    move = catalog.moves.get(slot)
    if move is None or move.epoch != epoch:
        raise Conflict(f"slot {slot} is not in the move of epoch {epoch}")
    return move


def _put_state(draft: Draft, catalog: CatalogView, move: Move, state: MoveState) -> Outcome:
    key = records.move_key(move.slot)
    put_record(draft, catalog, key, encode_move(replace(move, state=state)))
    return done(draft)
