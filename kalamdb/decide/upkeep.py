"""The decisions of a data group that are no statement of a client, each by what is asked for."""

from __future__ import annotations

from typing import assert_never

from kalamdb.decide import backfill, purge, schema, slots
from kalamdb.decide.draft import Draft
from kalamdb.decide.standing import Standing
from kalamdb.model import work
from kalamdb.model.command import Outcome
from kalamdb.store.kv import KeyReader

CHANGES_REQUESTS = (work.TrimBefore, *work.SLOT_WORK)
"""Request ids come or go with these."""

NEEDS_ROOM = (work.BuildIndex, work.ImportBegin, work.ImportChunk)


def decide_upkeep(
    draft: Draft, asked: work.UpkeepWork, standing: Standing, *, reader: KeyReader
) -> Outcome:
    """Raises what the decision refuses."""
    match asked:
        case work.ExpireRows():
            plan, held = standing.plan(asked.table), standing.held
            chains = standing.chain
            return purge.expire_rows(draft, asked, plan, reader=reader, chains=chains, held=held)
        case work.TrimBefore():
            return purge.trim_before(draft, asked, reader=reader, held=standing.held)
        case work.PurgeTable():
            return purge.purge_table(draft, asked, reader=reader)
        case work.BuildIndex():
            plan, passed = standing.plan(asked.table), standing.purging
            return backfill.build_index(draft, asked, plan, reader=reader, passed=passed)
        case work.CheckRows():
            plan, passed = standing.plan(asked.table), standing.purging
            return schema.check_rows(draft, asked, plan, reader=reader, passed=passed)
        case work.PurgeIndexes():
            return backfill.purge_indexes(draft, asked, reader=reader)
        case work.PutFence():
            return schema.put_fence(draft, asked)
        case work.OpenSlots():
            return slots.open_slots(draft, asked)
        case (
            work.SlotFreeze()
            | work.SlotThaw()
            | work.ImportBegin()
            | work.ImportChunk()
            | work.ImportClear()
            | work.SlotOpen()
            | work.SlotPurge()
        ):
            return slots.decide_slot(draft, asked, reader=reader)
        case _:
            assert_never(asked)
