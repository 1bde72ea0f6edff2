"""Where statements are carried out, by the names in them."""

from __future__ import annotations

import pytest

from kalamdb.errors import UnknownTable
from kalamdb.model.ids import TenantId, shared_partition, tenant_partition
from kalamdb.model.principal import Principal, Role
from kalamdb.session.target import ANYWHERE, META, Segment, Target, Where, next_segment, target_of
from kalamdb.sql.parse import parse
from tests.unit.session.catalogs import CATALOG, MINE, SETTINGS, VIEW_OF_MINE

TENANT, TENANT_WRITES = Target(Where.TENANT), Target(Where.TENANT, writes=True)
SHARED, SHARED_WRITES = (
    Target(Where.SHARED, SETTINGS.id),
    Target(Where.SHARED, SETTINGS.id, writes=True),
)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM app.mine", TENANT),
        ("SELECT * FROM app.settings", SHARED),
        ("SELECT * FROM app.settings s JOIN app.mine m ON s.id = m.id", TENANT),
        ("SELECT * FROM app.view_of_mine", TENANT),
        ("SELECT * FROM all_users.app.mine", ANYWHERE),
        ("SELECT * FROM system.tables", ANYWHERE),
        ("SELECT 1", ANYWHERE),
        ("WITH c AS (SELECT * FROM app.mine) SELECT * FROM c", TENANT),
        ("INSERT INTO app.mine VALUES (1)", TENANT_WRITES),
        ("INSERT INTO app.settings SELECT id FROM app.mine", SHARED_WRITES),
        ("UPDATE app.settings SET id = 2 WHERE id = 1", SHARED_WRITES),
        ("DELETE FROM app.mine WHERE id = 1", TENANT_WRITES),
        (
            "EXECUTE AS 'bob' (DELETE FROM app.mine WHERE id = 1)",
            Target(Where.OTHER_TENANT, tenant=TenantId("bob"), writes=True),
        ),
        ("EXECUTE AS 'bob' (SELECT * FROM app.settings)", SHARED),
        ("EXPLAIN SELECT * FROM app.mine", ANYWHERE),
        ("CREATE NAMESPACE other", META),
        ("CREATE TABLE app.new (id INT PRIMARY KEY)", META),
        ("ALTER TABLE app.mine ADD COLUMN c INT", META),
        ("CREATE USER 'u' WITH PASSWORD 'p1ssword!' ROLE user", META),
        ("SHOW TABLES", ANYWHERE),
    ],
)
def test_by_names_alone(sql: str, expected: Target) -> None:
    (statement,) = parse(sql)
    assert target_of(statement, CATALOG, "default") == expected


def test_names_without_a_namespace_are_the_sessions() -> None:
    (statement,) = parse("SELECT * FROM mine")
    assert target_of(statement, CATALOG, "app") == TENANT
    with pytest.raises(UnknownTable):
        target_of(statement, CATALOG, "default")


def test_partitions() -> None:
    alice = Principal.of("alice", Role.USER)
    assert TENANT.partition(alice) == tenant_partition(alice.user)
    assert SHARED.partition(alice) == shared_partition(SETTINGS.id)
    assert META.partition(alice) is None
    assert MINE.id in VIEW_OF_MINE.tables


def segments(sql: str) -> list[tuple[int, int, Where]]:
    statements, at, found = parse(sql), 0, []
    namespace, stale = "app", False
    while at < len(statements):
        segment: Segment = next_segment(statements, at, CATALOG, namespace=namespace, stale=stale)
        assert segment.start == at < segment.stop
        found.append((at, segment.stop, segment.target.where))
        at, namespace, stale = segment.stop, segment.namespace, segment.stale
    return found


def test_neighbours_of_one_place_go_together() -> None:
    assert segments(
        "SELECT 1; SELECT * FROM mine; SHOW TABLES; INSERT INTO mine VALUES (1);"
        " SELECT * FROM settings; INSERT INTO settings VALUES (1); SELECT * FROM mine"
    ) == [(0, 4, Where.TENANT), (4, 6, Where.SHARED), (6, 7, Where.TENANT)]


def test_a_definition_stands_alone() -> None:
    assert segments(
        "INSERT INTO mine VALUES (1); CREATE NAMESPACE a; CREATE NAMESPACE b; SELECT * FROM mine"
    ) == [(0, 1, Where.TENANT), (1, 2, Where.META), (2, 3, Where.META), (3, 4, Where.TENANT)]


def test_a_transaction_is_never_cut_and_goes_where_it_writes() -> None:
    assert segments(
        "SELECT * FROM mine; BEGIN; SELECT * FROM mine; INSERT INTO settings VALUES (1); COMMIT;"
        " SELECT * FROM mine"
    ) == [(0, 1, Where.TENANT), (1, 5, Where.SHARED), (5, 6, Where.TENANT)]
    assert segments("BEGIN; SELECT * FROM settings; COMMIT") == [(0, 3, Where.SHARED)]
    assert segments("BEGIN; ROLLBACK; BEGIN; INSERT INTO mine VALUES (1)") == [
        (0, 2, Where.TENANT),
        (2, 4, Where.TENANT),
    ]


def test_use_and_set_are_in_force_for_what_follows() -> None:
    statements = parse("USE other; SELECT 1; SET consistency = 'stale'; SELECT 2")
    segment = next_segment(statements, 0, CATALOG, namespace="app", stale=False)
    assert (segment.stop, segment.namespace, segment.stale) == (4, "other", True)
    reads = parse("SELECT * FROM mine; SET consistency = 'stale'; SELECT * FROM mine")
    first = next_segment(reads, 0, CATALOG, namespace="app", stale=False)
    assert (first.stop, first.stale) == (1, False)  # a stale read may go elsewhere


def test_what_is_not_there_ends_a_segment_before_it() -> None:
    statements = parse("SELECT * FROM mine; SELECT * FROM nowhere")
    segment = next_segment(statements, 0, CATALOG, namespace="app", stale=False)
    assert segment.stop == 1
    with pytest.raises(UnknownTable):
        next_segment(statements, 1, CATALOG, namespace="app", stale=False)
