"""What each role may do, and as whom."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.contract import Node, one_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROLES = ("user", "service", "dba", "system")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with one_node(tmp_path_factory.mktemp("roles") / "data") as node:
        await node.root.ok(
            "CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT);"
            "CREATE STREAM TABLE app.typing (id INT PRIMARY KEY) WITH (TTL_SECONDS = 60);"
            + "".join(
                f"CREATE SHARED TABLE app.{level} (id INT PRIMARY KEY)"
                f" WITH (ACCESS_LEVEL = '{level}');"
                for level in ("public", "private", "restricted", "dba")
            )
        )
        for role in ROLES:
            await node.user(f"a-{role}", role)
        await node.user("boss", "system")
        yield node


# ---- what each role may do ----------------------------------------------------------------------

U, S, D, Y = ROLES
ALL = (U, S, D, Y)
MATRIX: list[tuple[str, tuple[str, ...]]] = [
    ("INSERT INTO app.notes VALUES ({n}, 'x')", ALL),
    ("SELECT id FROM app.notes WHERE id = 1", ALL),
    ("UPDATE app.notes SET body = 'y' WHERE id = 1", ALL),
    ("DELETE FROM app.notes WHERE id = 1", ALL),
    ("INSERT INTO app.typing VALUES ({n})", ALL),
    ("SELECT id FROM app.typing", ALL),
    ("SELECT id FROM app.public", ALL),
    ("SELECT COUNT(*) FROM app.public AS a JOIN app.notes AS b ON a.id = b.id", ALL),
    ("SELECT id FROM app.public WHERE id = 1", ALL),
    ("SELECT id FROM app.private", (S, D, Y)),
    ("SELECT id FROM app.private WHERE id = 1", (S, D, Y)),
    ("SELECT id FROM app.notes WHERE id IN (SELECT id FROM app.private)", (S, D, Y)),
    ("WITH c AS (SELECT id FROM app.private) SELECT * FROM c", (S, D, Y)),
    ("SELECT id FROM app.restricted", (S, D, Y)),
    ("SELECT id FROM app.dba", (D, Y)),
    ("SELECT id FROM app.dba WHERE id = 1", (D, Y)),
    ("INSERT INTO app.public VALUES ({n})", (S, D, Y)),
    ("UPDATE app.public SET id = id WHERE id = 1", ()),
    ("DELETE FROM app.public WHERE id = {n}", (S, D, Y)),
    ("INSERT INTO app.private VALUES ({n})", (S, D, Y)),
    ("DELETE FROM app.restricted WHERE id = {n}", (S, D, Y)),
    ("INSERT INTO app.dba VALUES ({n})", (D, Y)),
    ("INSERT INTO app.notes SELECT id + 100 * {n}, 'x' FROM app.private", (S, D, Y)),
    ("CREATE USER TABLE app.u{n} (id INT PRIMARY KEY)", (S, D, Y)),
    ("CREATE STREAM TABLE app.s{n} (id INT) WITH (TTL_SECONDS = 1)", (S, D, Y)),
    ("CREATE SHARED TABLE app.h{n} (id INT PRIMARY KEY)", (S, D, Y)),
    ("DROP TABLE IF EXISTS app.nothing{n}", (D, Y)),
    ("CREATE NAMESPACE n{n}", (D, Y)),
    ("DROP NAMESPACE IF EXISTS nothing{n}", (D, Y)),
    ("CREATE USER made{n} WITH PASSWORD 'a-long-password-17' ROLE user", (D, Y)),
    ("ALTER USER made0 SET EMAIL 'a{n}@example.org'", (D, Y)),
    ("DROP USER IF EXISTS nothing{n}", (D, Y)),
    ("CREATE USER sys{n} WITH PASSWORD 'a-long-password-17' ROLE system", (Y,)),
    ("ALTER USER made0 SET ROLE system", (Y,)),
    ("ALTER USER boss SET EMAIL 'x{n}@example.org'", (Y,)),
    ("DROP USER made0", (Y,)),
    ("EXPLAIN SELECT id FROM app.notes", (D, Y)),
    ("SHOW NAMESPACES", ALL),
    ("SHOW TABLES IN app", ALL),
    ("DESCRIBE TABLE app.notes", ALL),
    ("DESCRIBE TABLE app.private", (S, D, Y)),
    ("SHOW STATS FOR TABLE app.restricted", (S, D, Y)),
    ("SHOW CREATE TABLE app.dba", (D, Y)),
    ("USE app", ALL),
]


@pytest.fixture(scope="module")
def numbers() -> dict[str, int]:
    return {role: at for at, role in enumerate(ROLES)}


@pytest.mark.parametrize(("sql", "allowed"), MATRIX, ids=[sql for sql, _ in MATRIX])
async def test_the_matrix(
    node: Node, numbers: dict[str, int], sql: str, allowed: tuple[str, ...]
) -> None:
    if "made0" in sql:
        await node.root.sql("CREATE USER made0 WITH PASSWORD 'a-long-password-17' ROLE user")
    if sql == "DROP USER made0":
        await node.root.ok("ALTER USER made0 SET ROLE system")
    for role in ROLES:
        answer = await node.users[f"a-{role}"].sql(sql.format(n=numbers[role] + 1))
        if role in allowed:
            assert answer.status == 200, (role, answer.body)
        elif allowed:
            assert (answer.status, answer.code) == (403, "PERMISSION_DENIED"), (role, answer.body)
        else:
            assert answer.status in (400, 403), (role, answer.body)


async def test_no_role_sees_rows_of_another(node: Node) -> None:
    for role in ROLES:
        user = node.users[f"a-{role}"]
        await user.ok("INSERT INTO app.notes VALUES (500, $1) ON CONFLICT DO NOTHING", [role])
    for role in ROLES:
        for sql in (
            "SELECT body FROM app.notes WHERE id = 500",
            "SELECT body FROM app.notes WHERE id + 0 = 500",
            "WITH c AS (SELECT * FROM app.notes) SELECT body FROM c WHERE id = 500",
        ):
            assert (await node.users[f"a-{role}"].ok(sql)).rows == [[role]]


@pytest.mark.parametrize("actor", ROLES)
@pytest.mark.parametrize("target", ROLES)
@pytest.mark.parametrize("form", ["EXECUTE AS '{}' ({})", "EXECUTE AS USER '{}' ({})"])
async def test_execute_as(node: Node, actor: str, target: str, form: str) -> None:
    await node.users[f"a-{target}"].ok(
        "INSERT INTO app.notes VALUES (600, $1) ON CONFLICT DO NOTHING", [target]
    )
    rank = ROLES.index
    name = f"a-{target}"
    answer = await node.users[f"a-{actor}"].sql(
        form.format(name, "SELECT body, CURRENT_USER() FROM app.notes WHERE id = 600")
    )
    may = rank(target) <= rank(actor) and (actor != "user" or target == "user")
    if not may:
        assert (answer.status, answer.code) == (403, "PERMISSION_DENIED")
        return
    assert answer.rows == [[target, name]]
    assert answer.body["results"][0]["as_user"] == name


@pytest.mark.parametrize(
    "inner",
    [
        "SELECT id FROM app.private",
        "SELECT id FROM app.public",
        "INSERT INTO app.public VALUES (70)",
        "CREATE NAMESPACE stolen",
        "CREATE USER stolen WITH PASSWORD 'a-long-password-17' ROLE system",
        "DROP TABLE app.notes",
        "EXECUTE AS 'root' (SELECT 1)",
        "SELECT id FROM app.notes; SELECT 1",
    ],
)
async def test_inside_execute_as_nobody_is_an_admin(node: Node, inner: str) -> None:
    answer = await node.root.sql(f"EXECUTE AS 'a-user' ({inner})")
    assert answer.status in (400, 403), answer.body
    assert (await node.root.ok("SELECT COUNT(*) FROM app.notes")).status == 200


async def test_a_user_may_not_be_another_user(node: Node) -> None:
    await node.user("victim")
    answer = await node.users["a-user"].sql("EXECUTE AS 'victim' (SELECT id FROM app.notes)")
    assert (answer.status, answer.code) == (403, "PERMISSION_DENIED")
    unknown = await node.users["a-user"].sql("EXECUTE AS 'no-such' (SELECT id FROM app.notes)")
    shown = unknown.body["error"]["message"].replace("no-such", "victim")
    assert (unknown.status, shown) == (403, answer.body["error"]["message"]), "names are not told"


async def test_passwords_are_never_shown(node: Node) -> None:
    secret = "a-very-secret-password-18"
    sql = f"CREATE USER shown WITH PASSWORD '{secret}' ROLE user"
    await node.root.ok(sql)
    assert secret not in str((await node.users["a-user"].sql(sql)).body)
    assert secret not in node.server.log.read_text()


async def test_the_log_has_no_error(node: Node) -> None:
    """Stands last: nothing above was a bug that hid behind a right status."""
    said = node.server.log.read_text()
    assert '"level":"error"' not in said, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
