"""The cache of prepared statements: when an entry is still good."""

from __future__ import annotations

from kalamdb.model.catalog import EMPTY_CATALOG
from kalamdb.model.principal import Role
from kalamdb.session.prepared import Prepared, PreparedCache, prepare
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select
from tests.small_node import SmallNode, small_node

TEXT = "SELECT v FROM app.t WHERE id = $1"


async def prepared_in(node: SmallNode, cache: PreparedCache) -> None:
    (statement,) = parse(TEXT)
    assert isinstance(statement, Select)
    cache.put(TEXT, "default", prepare(statement, node.groups.catalog, "default"))


async def test_a_new_user_leaves_prepared_statements_alone() -> None:
    cache = PreparedCache()
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.t (id INT PRIMARY KEY, v INT)"
        )
        await prepared_in(node, cache)
        kept = cache.get(TEXT, "default", node.groups.catalog)
        await node.setup("CREATE USER ann WITH PASSWORD 'long-enough-word' ROLE user")
        assert kept is not None
        assert cache.get(TEXT, "default", node.groups.catalog) is kept


async def test_a_table_made_anew_is_bound_anew() -> None:
    cache = PreparedCache()
    async with small_node() as node:
        table = "CREATE USER TABLE app.t (id INT PRIMARY KEY, v TEXT)"
        await node.setup("CREATE NAMESPACE app", table)
        await prepared_in(node, cache)
        await node.setup("DROP TABLE app.t", table)
        assert cache.get(TEXT, "default", node.groups.catalog) is None
        await node.ok("ann", "INSERT INTO app.t VALUES (1, 'x')")
        assert (await node.ok("ann", TEXT, [1]))[0]["rows"] == [["x"]]


async def test_a_role_that_may_not_is_refused_though_another_prepared_it() -> None:
    async with small_node() as node:
        await node.setup("CREATE NAMESPACE app", "CREATE SHARED TABLE app.s (id INT PRIMARY KEY)")
        text = "SELECT id FROM app.s WHERE id = 1"
        await node.ok("svc", text, role=Role.SERVICE)
        status, body = await node.sql("ann", text)
        assert (status, body["error"]["code"]) == (403, "PERMISSION_DENIED")


def test_the_oldest_leaves_first_and_long_texts_do_not_stay() -> None:
    cache = PreparedCache(entries_max=2)
    for number in range(3):
        cache.put(f"SELECT {number}", "default", _bare())
    assert len(cache) == 2
    cache.put("SELECT '" + "x" * 20_000 + "'", "default", _bare())
    assert len(cache) == 2


def _bare() -> Prepared:
    (statement,) = parse("SELECT 1")
    assert isinstance(statement, Select)
    return prepare(statement, EMPTY_CATALOG, "default")
