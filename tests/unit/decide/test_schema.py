"""Decisions of the meta group, and fences and slots of data groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.errors import (
    AlreadyExists,
    Conflict,
    InvalidDefinition,
    InvalidStatement,
    NamespaceNotEmpty,
    UnknownNamespace,
    UnknownTable,
    UnknownUser,
    UserDropped,
)
from kalamdb.model.catalog import AuthType, Identity
from kalamdb.model.ids import SLOTS, Slot, TableId
from kalamdb.model.principal import Role
from kalamdb.model.work import (
    ActivateTable,
    CreateNamespace,
    DefineTable,
    DropNamespace,
    DropTable,
    DropUser,
    OpenSlots,
    PutFence,
    PutPlacement,
    PutUser,
)
from kalamdb.store import catalog
from tests.unit.replica.harness import World, message_table

NEW = replace(message_table(), id=TableId(0))


@pytest.fixture
async def meta() -> World:
    world = World(group=0)
    world.do(CreateNamespace("chat", False))
    return world


async def test_namespaces(meta: World) -> None:
    with pytest.raises(AlreadyExists):
        meta.do(CreateNamespace("chat", False))
    assert meta.do(CreateNamespace("chat", True)).affected == 0
    with pytest.raises(InvalidDefinition):
        meta.do(CreateNamespace("System", False))
    with pytest.raises(AlreadyExists):  # built in: there, and never made
        meta.do(CreateNamespace("default", False))
    with pytest.raises(InvalidStatement):
        meta.do(DropNamespace("default", False))
    with pytest.raises(UnknownNamespace):
        meta.do(DropNamespace("none", False))
    assert meta.do(DropNamespace("none", True)).affected == 0
    assert meta.do(DropNamespace("chat", False)).affected == 1
    assert set(meta.replica.catalog.namespaces) == {"default"}


async def test_table_from_pending_to_active_to_gone(meta: World) -> None:
    made = meta.do(DefineTable(NEW, False))
    assert made.rows == ((1, 1),)
    view = meta.replica.catalog
    assert view.tables == {}
    assert view.pending[TableId(1)].name == NEW.name
    assert meta.do(ActivateTable(TableId(1), 1)).affected == 1
    assert meta.do(ActivateTable(TableId(1), 1)).affected == 0
    table = meta.replica.catalog.table("chat", NEW.name)
    assert table == replace(NEW, id=TableId(1))
    assert meta.replica.catalog.pending == {}
    with pytest.raises(AlreadyExists):
        meta.do(DefineTable(NEW, False))
    assert meta.do(DefineTable(NEW, True)).affected == 0
    with pytest.raises(NamespaceNotEmpty):
        meta.do(DropNamespace("chat", False))
    assert meta.do(DropTable(table.id)).affected == 1
    assert meta.do(DropTable(table.id)).affected == 0
    assert meta.do(DefineTable(NEW, False)).rows == ((2, 1),)


async def test_definition_left_pending_gives_way(meta: World) -> None:
    meta.do(DefineTable(NEW, False))
    again = meta.do(DefineTable(NEW, False))
    assert again.rows == ((2, 1),)
    assert list(meta.replica.catalog.pending) == [TableId(2)]
    with pytest.raises(Conflict):
        meta.do(ActivateTable(TableId(1), 1))


async def test_decisions_see_decisions_not_applied(meta: World) -> None:
    first = meta.ask(DefineTable(NEW, False))
    active = meta.ask(ActivateTable(TableId(1), 1))
    clash = meta.ask(DefineTable(NEW, False))
    meta.log.turn()
    assert (first.result().affected, active.result().affected) == (1, 1)
    assert isinstance(clash.exception(), AlreadyExists)


async def test_lost_decisions_leave_no_trace_in_the_next_term(meta: World) -> None:
    meta.ask(CreateNamespace("lost", False))
    meta.log.lose()
    meta.log.elect(2)
    assert meta.do(CreateNamespace("lost", False)).affected == 1


async def test_users_get_a_new_epoch_with_every_change(meta: World) -> None:
    meta.do(PutUser("ann", True, "hash", "service", "a@b"))
    first = meta.replica.catalog.users["ann"]
    assert (first.role, first.email, first.created_ms) == (
        Role.SERVICE,
        "a@b",
        meta.clock.now_ms,
    )
    meta.clock.pass_s(1)
    meta.do(PutUser("ann", False, role="user"))
    second = meta.replica.catalog.users["ann"]
    assert (second.role, second.password_hash, second.email) == (Role.USER, "hash", "a@b")
    assert second.epoch > first.epoch
    assert second.updated_ms > second.created_ms == first.created_ms
    meta.do(DropUser("ann", False))
    assert "ann" not in meta.replica.catalog.users
    for if_not_exists in (False, True):
        with pytest.raises(UserDropped):
            meta.do(PutUser("ann", True, if_not_exists=if_not_exists))
    meta.do(PutUser("ann", True, reuse=True))
    third = meta.replica.catalog.users["ann"]
    assert third.epoch > second.epoch
    assert (third.password_hash, third.email) == ("", None)
    assert meta.replica.catalog.dropped_users == {}


async def test_who_signs_in_elsewhere_has_no_password(meta: World) -> None:
    meta.do(PutUser("ann", True, identity=Identity("https://issuer", "ann")))
    with pytest.raises(InvalidStatement):
        meta.do(PutUser("ann", False, password_hash="hash"))
    before = meta.replica.catalog.users["ann"]
    assert (before.auth_type, before.signed_out_ms) == (AuthType.OIDC, 0)
    meta.clock.pass_s(1)
    meta.do(PutUser("ann", False, sign_out=True))
    after = meta.replica.catalog.users["ann"]
    assert after.signed_out_ms == meta.clock.now_ms
    assert after.epoch > before.epoch
    assert catalog.load(meta.store).users["ann"] == after


async def test_user_refusals(meta: World) -> None:
    meta.do(PutUser("root", True, role="system"))
    with pytest.raises(AlreadyExists):
        meta.do(PutUser("root", True))
    assert meta.do(PutUser("root", True, if_not_exists=True)).affected == 0
    for name in ("system", "anonymous"):
        with pytest.raises(InvalidDefinition):
            meta.do(PutUser(name, True))
    with pytest.raises(UnknownUser):
        meta.do(PutUser("nobody", False, role="dba"))
    with pytest.raises(UnknownUser):
        meta.do(DropUser("nobody", False))
    assert meta.do(DropUser("nobody", True)).affected == 0
    with pytest.raises(InvalidStatement):
        meta.do(DropUser("root", False))


async def test_placement_is_put_once(meta: World) -> None:
    meta.do(PutPlacement(8, (1,), "c"))
    placement = meta.replica.catalog.placement
    assert placement is not None
    assert placement.group_of(Slot(4095)) == 8
    with pytest.raises(AlreadyExists):
        meta.do(PutPlacement(4, (1,), "c"))


async def test_catalog_of_effects_is_the_catalog_of_the_store(meta: World) -> None:
    meta.do(PutPlacement(8, (1,), "c"))
    meta.do(DefineTable(NEW, False))
    meta.do(ActivateTable(TableId(1), 1))
    meta.do(PutUser("ann", True))
    meta.do(DropNamespace("x", True))
    assert meta.replica.catalog == catalog.load(meta.store)
    assert meta.replica.catalog.version == 5


async def test_fences() -> None:
    world = World()
    table = message_table()
    assert world.do(PutFence(table)).affected == 1
    assert world.do(PutFence(table)).affected == 0
    newer = replace(table, version=2)
    world.do(PutFence(newer))
    with pytest.raises(Conflict):
        world.do(PutFence(table))
    assert world.do(PutFence(newer, dropped=True)).affected == 1
    assert world.do(PutFence(newer, dropped=True)).affected == 0
    with pytest.raises(UnknownTable):
        world.do(PutFence(replace(table, version=3)))


async def test_slots_are_opened_once() -> None:
    world = World()
    every = tuple(map(Slot, range(SLOTS)))
    assert world.do(OpenSlots(every, 1)).affected == 0
    # Who ever had a slot here says so in its record; this is no way to take one.
    assert world.do(OpenSlots(every, 2)).affected == 0
    assert world.replica.slots.records[Slot(5)].epoch == 1
