"""The bytes of a group's state, frozen: keys, rows, changes, records, whatever a command leaves.

A digest that changes here means that data written by a release no longer is what this one writes.
That may be meant (a new family, a new format version); it is never an accident to be blessed
unread.
"""

from __future__ import annotations

from kalamdb.model.ids import TableId, slot_of
from kalamdb.model.table import TableKind
from kalamdb.model.work import (
    ActivateTable,
    CreateNamespace,
    DefineTable,
    ExpireRows,
    PutFence,
    PutPlacement,
    PutUser,
    TrimBefore,
)
from kalamdb.store.rows import expired_upto
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    RETURNING_ALL,
    World,
    delete,
    insert,
    message,
    message_table,
    tag,
    update,
)

TABLE = message_table()
STREAM = message_table(8, kind=TableKind.STREAM, ttl_s=60)
HOUR = 23_874

DATA_DIGEST = "3e2d841bf8fe4caba1700622fbd6d897"
META_DIGEST = "4ef09793c01f9459333c98e126fb4d4e"


async def test_state_of_a_data_group() -> None:
    world = World(slots=[slot_of(ALICE), slot_of(BOB)])
    world.add(TABLE, STREAM, message_table(9))
    world.do(insert(TABLE, message(1, mail="m"), message(2), returning=RETURNING_ALL), tag("r"))
    world.do(update(TABLE, 1, {2: "x", 4: 3}))
    world.do(delete(TABLE, 2))
    world.do(insert(STREAM, message(1), partition=BOB))
    world.clock.pass_s(61)
    world.do(insert(STREAM, message(2), partition=BOB))
    upto = expired_upto(STREAM, world.clock.now_ms, world.replica.group)
    assert world.do(ExpireRows(STREAM, upto)).affected == 1
    assert world.do(TrimBefore(HOUR)).affected == 1
    world.do(PutFence(message_table(9), dropped=True))
    world.do(insert(TABLE, *(message(100 + n, "x" * 1000) for n in range(1200))), tag("large"))
    assert world.replica.digest() == DATA_DIGEST


async def test_state_of_the_meta_group() -> None:
    world = World(group=0)
    world.do(PutPlacement(8, (1,), "cluster"))
    world.do(CreateNamespace("chat", False))
    world.do(DefineTable(message_table(1), False))
    world.do(DefineTable(message_table(2), False))
    world.do(ActivateTable(TableId(1), 1))
    world.do(PutUser("ann", True, "hash", "dba", "a@b"), tag("u"))
    assert world.replica.digest() == META_DIGEST
