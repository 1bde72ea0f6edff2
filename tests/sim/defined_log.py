"""The committed logs of a world whose definitions change: the meta group's, and the data groups'.

1. The meta group's log is folded into catalogs; each definition it ever held is kept by version.
2. A data group's log is folded into its keys; each row put is compared with the fence it meets.
3. When a definition becomes active, and now and then, the data groups are judged as they are
   (`checkers.defined`). Members are compared with the fold elsewhere, so this judges each of them.

Keeps: a version of a table has one definition; a fence never goes back; a row is written under the
definition that is in force in its group.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kalamdb.model import codec, keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Command, Effect
from kalamdb.model.ids import TableId
from kalamdb.model.table import TableDef
from kalamdb.store.catalog import FIRST_CATALOG, fold
from kalamdb.store.catalog_codec import Fence, FenceState, decode_fence
from tests.sim.checkers import defined
from tests.sim.reference import GroupReference, Violation
from tests.sim.rows import VERSION_COLUMN

JUDGED_EVERY = 100  # commands of a group


@dataclass(slots=True)
class Ledger:
    """What the logs of all groups say of definitions. `catalogs` has each with its time."""

    versions: dict[tuple[TableId, int], TableDef] = field(
        default_factory=dict[tuple[TableId, int], TableDef]
    )
    catalogs: list[tuple[float, CatalogView]] = field(
        default_factory=lambda: [(0.0, FIRST_CATALOG)]
    )
    groups: list[DataReference] = field(default_factory=list["DataReference"])

    @property
    def catalog(self) -> CatalogView:
        return self.catalogs[-1][1]

    def learn(self, view: CatalogView, now_s: float) -> None:
        before = self.catalog
        self.catalogs.append((now_s, view))
        for table in (*view.tables_by_id.values(), *view.pending.values()):
            known = self.versions.setdefault((table.id, table.version), table)
            if known != table:
                name = f"{table.full_name} version {table.version}"
                raise Violation(f"{name} has two definitions: {known} and {table}")
        for table in view.tables_by_id.values():
            old = before.tables_by_id.get(table.id)
            if old is None or old.version != table.version:
                self._activated(table, old)

    def _activated(self, table: TableDef, old: TableDef | None) -> None:
        """Every group holds the definition, or a later one, when it becomes active."""
        name = f"{table.full_name} version {table.version}"
        if old is not None and old.version > table.version:
            raise Violation(f"{name} became active after version {old.version}")
        for group in self.groups:
            fence = group.fences.get(table.id)
            if fence is None or fence.table.version < table.version:
                raise Violation(f"{name} is active, group {group.group} has the fence {fence}")
            if old is not None:
                group.judge(f"{name} became active")


class MetaReference(GroupReference):
    """Group 0."""

    def __init__(self, group: int, ledger: Ledger) -> None:
        super().__init__(group)
        self._ledger = ledger

    def _note(self, where: str, index: int, command: Command, *, now_s: float) -> None:
        view = fold(self._ledger.catalog, command.effects)
        if view is not self._ledger.catalog:
            self._ledger.learn(view, now_s)


class DataReference(GroupReference):
    """A data group."""

    def __init__(self, group: int, ledger: Ledger) -> None:
        super().__init__(group)
        self._ledger = ledger
        self.fences: dict[TableId, Fence] = {}
        self.built = 0  # entries of indexes put by steps that build them
        self._noted = 0
        ledger.groups.append(self)

    def _note(self, where: str, index: int, command: Command, *, now_s: float) -> None:
        self._noted += 1
        moved = False
        rows = entries = 0
        for key, value in command.effects:
            match key[0]:
                case keys.Family.ROW:
                    self._check_row(where, (key, value))
                    rows += 1
                case keys.Family.FENCE:
                    self._check_fence(where, (key, value))
                    moved = True
                case keys.Family.INDEX | keys.Family.UNIQUE:
                    entries += value is not None
                case _:
                    pass
        self.built += 0 if rows else entries
        if moved or self._noted % JUDGED_EVERY == 0:
            self.judge(where)

    def _check_row(self, where: str, effect: Effect) -> None:
        key, value = effect
        table = keys.table_of(key)
        row = None if value is None else codec.decode_row(value)[1]
        if row is None:
            return
        fence = self.fences.get(table)
        if fence is None or fence.state is not FenceState.ACTIVE:
            raise Violation(f"{where}: a row of table {table} is put, its fence is {fence}")
        version = row[VERSION_COLUMN]
        if version != fence.table.version:
            raise Violation(
                f"{where}: a row of {fence.table.full_name} is put under version {version},"
                f" version {fence.table.version} is in force"
            )

    def _check_fence(self, where: str, effect: Effect) -> None:
        key, value = effect
        assert value is not None
        table, fence = keys.table_of(key), decode_fence(value)
        before = self.fences.get(table)
        if before is not None and (
            before.state > fence.state or before.table.version > fence.table.version
        ):
            raise Violation(f"{where}: the fence {fence} stands after {before}")
        known = self._ledger.versions.get((table, fence.table.version))
        if known != fence.table:
            raise Violation(f"{where}: the fence {fence} is no version of the catalog: {known}")
        self.fences[table] = fence

    def has_keys(self, table: TableId) -> bool:
        prefix = keys.table_rows(table)
        return any(key.startswith(prefix) for key in self.state)

    def judge(self, where: str) -> None:
        active = self._ledger.catalog.tables_by_id
        for fault in defined.faults(self.state, self._ledger.versions, active):
            raise Violation(f"group {self.group}, {where}: {fault}")
