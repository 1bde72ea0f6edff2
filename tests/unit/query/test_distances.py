"""Distances of vectors, by the real engine: every way to write a vector, and every wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.sql.parse import parse
from tests.small_node import SmallNode, small_node

VECTORS = ("'[1, 0]'", "'[0, 1]'", "NULL", "'[0, 0]'", "'[-3, 0]'")
ROWS = ", ".join(f"({number}, {vector}, 'x')" for number, vector in enumerate(VECTORS, 1))


async def pictures(node: SmallNode) -> None:
    await node.setup(
        "CREATE NAMESPACE app",
        "CREATE USER TABLE app.p (id INT PRIMARY KEY, e EMBEDDING(2), t TEXT)",
    )
    await node.ok("ann", f"INSERT INTO app.p VALUES {ROWS}")


async def column(node: SmallNode, sql: str, params: list[Any] | None = None) -> list[Any]:
    """The last column of a result."""
    [result] = await node.ok("ann", sql, params)
    return [row[-1] for row in result["rows"]]


COSINES = [0.0, 1.0, None, 1.0, 2.0]
LENGTHS = [0.0, 2**0.5, None, 1.0, 4.0]
PRODUCTS = [1.0, 0.0, None, 0.0, -3.0]


async def test_every_way_to_write_a_vector() -> None:
    ways: list[tuple[str, list[Any] | None]] = [
        ("'[1, 0]'", None),
        ("'[1, 0]'::vector", None),
        ("'[1, 0]'::vector(2)", None),
        ("ARRAY[1, -0.0]", None),
        ("ARRAY[1, 1 - 1]", None),
        ("$1", [[1, 0]]),
        ("$1", ["[1, 0]"]),
        ("$1::vector", [[1.0, 0.0]]),
        ("(SELECT q.e FROM app.p q WHERE q.id = 1)", None),
    ]
    async with small_node() as node:
        await pictures(node)
        for vector, params in ways:
            for form, expected in (
                (f"cosine_distance(e, {vector})", COSINES),
                (f"L2_Distance({vector}, p.e)", LENGTHS),
                (f"INNER_PRODUCT(app.p.e, {vector})", PRODUCTS),
                (f"e <=> {vector}", COSINES),
                (f"p.e <-> {vector}", LENGTHS),
                (f"0 - (e <#> {vector})", PRODUCTS),
            ):
                found = await column(node, f"SELECT {form} FROM app.p ORDER BY id", params)
                assert found == expected, (form, params)


async def test_the_nearest_wherever_an_expression_may_stand() -> None:
    near: list[Any] = [[0.9, 0.1]]
    async with small_node() as node:
        await pictures(node)
        for sql, expected in (
            ("SELECT id FROM app.p ORDER BY e <=> $1 LIMIT 2", [1, 2]),
            ("SELECT id FROM app.p WHERE t = 'x' ORDER BY cosine_distance(e, $1) LIMIT 2", [1, 2]),
            ("SELECT id FROM app.p ORDER BY e <#> $1, id LIMIT 2", [1, 2]),
            ("SELECT id FROM app.p WHERE e <-> $1 < 0.5", [1]),
            ("SELECT id FROM app.p WHERE id = 1 AND e <=> $1 < 0.5 ORDER BY e <=> $1", [1]),
            ("SELECT e <=> $1 < 0.5 FROM app.p WHERE id = 1", [True]),
            ("WITH c AS (SELECT id, e <-> $1 AS d FROM app.p) SELECT id FROM c WHERE d < 0.5", [1]),
            ("SELECT b.id FROM app.p a JOIN app.p b ON a.e <-> b.e < 1.1 AND a.id = 4"
             " WHERE a.e <-> $1 IS DISTINCT FROM 7 AND b.id < 9 ORDER BY 1", [1, 2, 4]),
            ("UPDATE app.p SET t = 'near' WHERE e <-> $1 < 0.5 RETURNING id", [1]),
            ("DELETE FROM app.p WHERE l2_distance(e, $1) > 3 RETURNING id", [5]),
        ):  # fmt: skip
            assert await column(node, sql, near) == expected, sql
        await node.setup("CREATE VIEW app.v AS SELECT id, e <=> '[1, 0]' AS d FROM app.p")
        assert await column(node, "SELECT id FROM app.v ORDER BY d LIMIT 1") == [1]


async def test_the_types_and_names_of_the_result() -> None:
    async with small_node() as node:
        await pictures(node)
        [result] = await node.ok(
            "ann", "SELECT e <=> '[1,0]', E <-> $1, inner_product(e, e) FROM app.p", [[1, 0]]
        )
        assert [(one["name"], one["data_type"]) for one in result["schema"]] == [
            ("e <=> '[1,0]'", "Float"), ("e <-> $1", "Double"), ("inner_product(e, e)", "Double"),
        ]  # fmt: skip


WRONG: list[tuple[str, list[Any] | None, str]] = [
    ("e <=> '[1, 2, 3]'", None, "22000"),
    ("e <-> '[1]'", None, "22000"),
    ("inner_product(e, $1)", [[1]], "22000"),
    ("e <=> '[]'", None, "22P02"),
    ("e <=> 'near'", None, "22P02"),
    ("e <=> '[1, \"2\"]'", None, "22P02"),
    ("e <=> '[1, true]'", None, "22P02"),
    ("e <=> NULL", None, "22P02"),
    ("cosine_distance(e, NULL)", None, "22P02"),
    ("cosine_distance(e, ARRAY[1, NULL])", None, "22P02"),
    ("cosine_distance(e, ARRAY[])", None, "22P02"),
    ("e <-> $1", [None], "22023"),
    ("e <-> $1", [[]], "22023"),
    ("e <-> $1", [5], "22023"),
    ("e <-> $1", [[1e308 * 10, 0]], "22023"),
    ("e <-> $1", [[10**400, 0]], "22023"),
    ("e <-> $1", [[0] * 8193], "22023"),
    ("l2_distance(e)", None, "42601"),
    ("l2_distance(e, e, e)", None, "42601"),
    ("l2_distance()", None, "42601"),
    ("e <=> 5", None, "42601"),
    ("1 - e <=> '[1, 0]'", None, "42601"),
    ("e <=> '[1, 0]' + 1", None, "42601"),
    ("e <=> e <=> e", None, "42601"),
    ("e <=> t", None, "22000"),
]


async def test_what_is_no_vector() -> None:
    async with small_node() as node:
        await pictures(node)
        for form, params, sqlstate in WRONG:
            status, body = await node.sql("ann", f"SELECT {form} FROM app.p", params)
            assert (status, body.get("error", {}).get("sqlstate")) == (400, sqlstate), (form, body)


@pytest.mark.parametrize("sign", ["<=>", "<->", "<#>"])
def test_the_operators_stand_where_a_value_stands(sign: str) -> None:
    parse(f"SELECT a{sign}b, (a {sign} $1) + 1 FROM t WHERE a {sign} '[1]' < 2 ORDER BY a{sign}b")
