"""Rules of a cluster, each left out: what a simulated cluster must notice.

A mutant patches the product for the time of a run; its docstring says which rule it breaks.
`FIRST_SEED` names a seed that notices it (`python -m tests.sim.cluster.mutants` looks for the first
ones). The clauses in bold of the core protocol and where each is left out:

    cursors    floor ≤ seq_last; ahead only after a read index    sim.mutants: floor_of_clock,
                                                                  resumes_below_the_floor
               components have several sources; trimmed(c)        here: forgets_what_was_trimmed;
                                                                  unit/decide/test_slots.py
    slot moves reads after the freeze ask meta                    unit/replica/test_slots.py
               an import begins where no key is left              here: purges_nothing
               the whole image, requests and changes among it     here: image_without_requests,
                                                                  image_without_changes
               one snapshot, a new one begins again               unit/decide/test_slots.py
               seqs go on above the cut                           here: opens_below_the_cut
               the change floor of an opened slot                 unit/decide/test_slots.py
               one record, Open or Thaw                           here: aborts_what_was_opened
               the stream ends at the cut, and goes on elsewhere  here: streams_stay
               a frozen slot is decided on no more                here: decides_when_frozen
    recovery   the store is a prefix; the log holds the rest      sim.mutants: store_with_holes,
                                                                  compacts_what_is_not_durable
               an install ends the group's streams                sim.mutants: image_leaves_streams
               who returns with an empty disk does not vote       raft/mutants.py
    routing    nothing is done twice                              here: asks_twice
               the catalog's lease                                here: answers_from_old_catalogs
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from cluster import catalog_feed, remote
from cluster.leaders import Leaders
from kalamdb.decide import moves, slots
from kalamdb.decide.draft import Draft
from kalamdb.decide.standing import Standing
from kalamdb.feed.hub import Hub
from kalamdb.model import keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.slot import MoveState
from kalamdb.model.slot_work import AbortMove
from kalamdb.replica import replica
from kalamdb.replica.slot_image import SlotSteps, Writes
from kalamdb.store import changes
from kalamdb.store.slot_codec import SlotRecord, SlotState, decode_slot, encode_slot
from kalamdb.store.slot_keys import SlotWalk
from tests.sim.cluster import world
from tests.sim.mutants import active

Patches = Callable[[], list[Any]]
MUTANTS: dict[str, Patches] = {}
SEEDS_MAX = 60

FIRST_SEED = {
    "purges_nothing": 0,
    "image_without_requests": 2,
    "image_without_changes": 1,
    "image_without_last": 0,
    "opens_below_the_cut": 0,
    "aborts_what_was_opened": 1,
    "streams_stay": 1,
    "decides_when_frozen": 0,
    "forgets_what_was_trimmed": 33,
    "asks_twice": 19,
    "answers_from_old_catalogs": 3,
}


def mutant(make: Patches) -> Patches:
    MUTANTS[make.__name__] = make
    return make


# Slot moves.


@mutant
def purges_nothing() -> list[Any]:
    """A slot is given up when no key of it is left."""

    async def nothing(writes: Writes, snapshot: Any, steps: SlotSteps, keys_max: int) -> bool:
        await writes.write(steps.work(done=True))
        return True

    return [patch.object(replica, "clear_slot", nothing)]


def without(*families: keys.Family) -> list[Any]:
    """Images that lack some families; what is purged lacks nothing."""
    pairs = SlotWalk.pairs

    def lacking(self: SlotWalk, *, dropped: bool = True) -> Iterator[tuple[bytes, bytes]]:
        for key, value in pairs(self, dropped=dropped):
            if dropped or key[0] not in families:
                yield key, value

    return [patch.object(SlotWalk, "pairs", lacking)]


@mutant
def image_without_requests() -> list[Any]:
    """The image has the request ids: a retry after the move is not done again."""
    return without(keys.Family.REQUEST, keys.Family.REQUEST_HOUR)


@mutant
def image_without_changes() -> list[Any]:
    """The image has the changes: who was away during the move misses none."""
    return without(keys.Family.CHANGE)


@mutant
def image_without_last() -> list[Any]:
    """The image has where each chain ends: the next change follows it."""
    return without(keys.Family.LAST)


@mutant
def opens_below_the_cut() -> list[Any]:
    """The target's seqs go on above the cut."""

    def low(least: Seq, group: GroupId) -> Seq:
        return Seq(int(group))

    return [patch.object(slots, "numbers_from", low)]


@mutant
def aborts_what_was_opened() -> list[Any]:
    """Of open and abort only one record is ever written."""
    abort = moves.abort_move

    def late(draft: Draft, asked: AbortMove, catalog: CatalogView) -> Outcome:
        move = catalog.moves.get(asked.slot)
        if move is not None and move.state is MoveState.OPENED:
            moving = {**catalog.moves, asked.slot: replace(move, state=MoveState.MOVING)}
            catalog = replace(catalog, moves=moving)
        return abort(draft, asked, catalog)

    return [patch.object(moves, "abort_move", late)]


@mutant
def streams_stay() -> list[Any]:
    """The source ends the slot's streams at the cut."""
    return [patch.object(Hub, "close_slots", lambda self, slots, detail: None)]


@mutant
def decides_when_frozen() -> list[Any]:
    """The source decides nothing on a slot that is frozen."""
    learn = Standing._learn_slot

    def thawed(self: Standing, key: bytes, value: bytes | None) -> None:
        record = None if value is None else decode_slot(value)
        if record is not None and record.state is SlotState.FROZEN:
            value = encode_slot(SlotRecord(record.epoch, SlotState.OPEN))
        learn(self, key, value)

    return [patch.object(Standing, "_learn_slot", thawed)]


@mutant
def forgets_what_was_trimmed() -> list[Any]:
    """A cursor below what was trimmed in a group before the move is expired in the next."""
    check = changes.check_cursor

    def own_only(reader: Any, at: Any, cursor: Seq, seq_last: Seq) -> Seq:
        with patch.object(changes, "change_floor", lambda reader: Seq(0)):
            return check(reader, at, cursor, seq_last)

    return [patch.object(changes, "check_cursor", own_only)]


# Routing.


@mutant
def asks_twice() -> list[Any]:
    """Nothing is asked a second time unless it was surely not done, or may be done twice."""
    ask = Leaders.ask

    async def again(self: Leaders, group_of: Any, what: Any, **options: Any) -> Any:
        return await ask(self, group_of, what, **(options | {"twice": True}))

    return [patch.object(Leaders, "ask", again)]


@mutant
def answers_from_old_catalogs() -> list[Any]:
    """Nobody answers from a catalog that was not heard of for longer than its lease."""
    return [
        patch.object(remote, "check_lease", lambda age_s: None),
        patch.object(catalog_feed, "check_lease", lambda age_s: None),
    ]


def caught(name: str, seed: int) -> list[str]:
    """The faults of a run with the mutant in."""
    with active(MUTANTS[name]()):
        return world.run(seed).faults


def first_seed(name: str) -> int | None:
    """The first seed that notices the mutant, the known one before all others."""
    for seed in (FIRST_SEED.get(name, 0), *range(SEEDS_MAX)):
        if caught(name, seed):
            return seed
    return None


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MUTANTS:
        for number in range(SEEDS_MAX):
            faults = caught(wanted, number)
            if faults:
                print(f'    "{wanted}": {number},  # {faults[0][:150]}', flush=True)
                break
        else:
            print(f'    "{wanted}": None,', flush=True)
