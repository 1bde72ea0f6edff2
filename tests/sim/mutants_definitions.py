"""Rules of definitions, each left out; see `mutants`. They are noticed by worlds of `definitions`.

`python -m tests.sim.mutants_definitions` says which seeds notice them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from kalamdb.decide import backfill, schema
from kalamdb.decide.draft import Draft
from kalamdb.decide.plan import TablePlan, UniquePlan
from kalamdb.decide.rows import RowWriter
from kalamdb.decide.standing import Standing
from kalamdb.errors import Unavailable
from kalamdb.model import codec, keys, work
from kalamdb.model.command import Outcome
from kalamdb.session import tables
from kalamdb.session.tables import Tables
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import TableState, encode_table
from tests.sim import definitions
from tests.sim.mutants import Patches, active
from tests.sim.operators import RoutedGroups

MUTANTS: dict[str, Patches] = {}
FIRST_SEED = {
    "forgets_a_group": 0,
    "activates_before_fences": 0,
    "skips_rows_of_a_build": 0,
    "builds_of_the_store_only": 5,
    "keeps_the_old_entry": 0,
    "keeps_the_old_unique_value": 0,
    "takes_a_unique_value_away": 1,
    "compares_no_versions": 37,
    "believes_old_rows": 0,
    "decides_under_any_version": 0,
    "reads_rows_as_stored": 3,
    "fence_goes_back": 2,
    "drop_is_forgotten": 57,
    "says_not_done_on_the_way": 1,
    "schema_changed_leaves": 9,
    "undone_request_is_ok": 1,
    "takes_away_what_undo_needs": 2,
}
SEEDS_MAX = 60


def mutant(make: Patches) -> Patches:
    MUTANTS[make.__name__] = make
    return make


# The steps.


@mutant
def forgets_a_group() -> list[Any]:
    """§5 the fence stands in every data group before the definition is active."""
    everywhere = RoutedGroups.write_everywhere

    async def most(self: RoutedGroups, asked: Any) -> None:
        if isinstance(asked, work.PutFence) and asked.table.version % 3 == 0:
            await self._forward(1, asked)
        else:
            await everywhere(self, asked)

    return [patch.object(RoutedGroups, "write_everywhere", most)]


@mutant
def activates_before_fences() -> list[Any]:
    """§5 pending, fences, active: in this order."""
    finish = Tables._finish

    async def eager(self: Tables, table: Any) -> None:
        await self._groups.write_meta(work.ActivateTable(table.id, table.version))
        await finish(self, table)

    return [patch.object(Tables, "_finish", eager)]


@mutant
def drop_is_forgotten() -> list[Any]:
    """A drop that a crash cut off is finished: no table is there in some groups only."""

    async def finish_pending(self: Tables) -> int:
        pending = list(self._catalog.pending.values())
        for table in pending:
            await self._finish_left(table)
        return len(pending)

    return [patch.object(Tables, "finish_pending", finish_pending)]


@mutant
def says_not_done_on_the_way() -> list[Any]:
    """§6 "not done" only when it is certain: meta knows the definition, somebody will go on."""
    return [patch.object(tables, "Indeterminate", Unavailable)]


class _Nothing(Exception):
    pass


@mutant
def schema_changed_leaves() -> list[Any]:
    """Two nodes may finish one definition; the slower one's step meets a newer fence."""
    return [patch.object(tables, "SchemaChanged", _Nothing)]


@mutant
def undone_request_is_ok() -> list[Any]:
    """§6 a repeat is told what came of the statement, not that it was asked for before."""
    return [patch.object(Tables, "_was_undone", lambda self, table, version: False)]


@mutant
def takes_away_what_undo_needs() -> list[Any]:
    """0013: what an undone statement took away is there again, so rows had to keep it."""
    return [patch.object(tables, "check_can_be_undone", lambda old, new: None)]


@mutant
def believes_old_rows() -> list[Any]:
    """0013: rows from before the fence are looked at for what is new."""

    def check_rows(draft: Draft, asked: Any, plan: Any, **given: Any) -> Outcome:
        return Outcome(0, draft.seq, ("after",), ((None,),))

    return [patch.object(schema, "check_rows", check_rows)]


# Decisions of the meta group and of fences.


@mutant
def compares_no_versions() -> list[Any]:
    """0013: a version is made from the newest one, or its statement is a Conflict."""

    def revise(draft: Draft, table: Any, catalog: Any) -> Outcome:
        newest = catalog.pending.get(table.id, catalog.tables_by_id[table.id])
        table = replace(table, version=newest.version + 1)
        value = encode_table(table, TableState.PENDING)
        schema.put_record(draft, catalog, records.revision_key(table.id), value)
        return Outcome(1, draft.seq, ("id", "version"), ((int(table.id), table.version),))

    return [patch.object(schema, "_revise_table", revise)]


@mutant
def fence_goes_back() -> list[Any]:
    """0013: versions only grow; a fence that comes late is refused."""

    def put_fence(draft: Draft, asked: Any) -> Outcome:
        state = schema.FenceState.DROPPED if asked.dropped else schema.FenceState.ACTIVE
        fence = schema.encode_fence(schema.Fence(asked.table, state))
        draft.put(keys.fence(asked.table.id), fence)
        return schema.done(draft)

    return [patch.object(schema, "put_fence", put_fence)]


@mutant
def decides_under_any_version() -> list[Any]:
    """§5 a group refuses what is bound to another version than its fence has."""
    plan = Standing.plan

    def any_version(self: Standing, table: Any) -> TablePlan:
        known = self._plans.get(table.id)
        if known is not None and known.state is schema.FenceState.ACTIVE:
            return known
        return plan(self, table)

    return [patch.object(Standing, "plan", any_version)]


# Indexes.


@mutant
def skips_rows_of_a_build() -> list[Any]:
    """0014: a step begins behind the row where the last one ended."""
    build = backfill.build_index

    def skip(draft: Draft, asked: Any, plan: Any, **given: Any) -> Outcome:
        if asked.after:
            asked = replace(asked, after=asked.after + b"\xff")
            return Outcome(0, draft.seq, ("after",), ((None,),))
        return build(draft, asked, plan, **given)

    return [patch.object(backfill, "build_index", skip)]


@mutant
def builds_of_the_store_only() -> list[Any]:
    """0014: a step puts what belongs to the newest decision, applied or not."""
    return [patch.object(Draft, "newer", lambda self, key, stored: stored)]


@mutant
def keeps_the_old_entry() -> list[Any]:
    """§2 an index entry follows its row: an UPDATE takes the old one out."""
    update = RowWriter.update

    def keep(self: RowWriter, pk: bytes, row: Any, old: bytes, before: Any) -> None:
        update(self, pk, row, old, before)
        family = keys.Family.INDEX
        self.draft.effects[:] = [
            effect
            for effect in self.draft.effects
            if effect[0][0] != family or effect[1] is not None
        ]

    return [patch.object(RowWriter, "update", keep)]


@mutant
def keeps_the_old_unique_value() -> list[Any]:
    """§2 a UNIQUE entry is given up by a row that changes its value or goes."""
    return [patch.object(RowWriter, "release", lambda self, pk, row, after=None: None)]


@mutant
def takes_a_unique_value_away() -> list[Any]:
    """0014: a UNIQUE being built takes no entry from the row that has it."""

    def put(draft: Draft, table: Any, index: Any, at: Any, pk: bytes, *, row: Any) -> int:
        if isinstance(index, UniquePlan):
            key = index.key(at, row)
            if key is not None:
                draft.put(key, pk)
            return 0
        return original(draft, table, index, at, pk, row=row)

    original = backfill._put_entry
    return [patch.object(backfill, "_put_entry", put)]


@mutant
def reads_rows_as_stored() -> list[Any]:
    """0013: a row is complete in columns that are younger than it, before it is changed."""

    def init(self: TablePlan, table: Any, state: Any, checks: Any) -> None:
        original(self, table, state, checks)
        self.read = codec.decode_row

    original = TablePlan.__init__
    return [patch.object(TablePlan, "__init__", init)]


def caught(name: str, seed: int) -> list[str]:
    with active(MUTANTS[name]()):
        return definitions.run_world(seed).faults


def first_seed(name: str) -> int | None:
    """The first seed that notices the mutant, the known one before all others."""
    for seed in (FIRST_SEED[name], *range(SEEDS_MAX)):
        if caught(name, seed):
            return seed
    return None


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MUTANTS:
        found = next((seed for seed in range(SEEDS_MAX) if caught(wanted, seed)), None)
        print(f'    "{wanted}": {found},', flush=True)
