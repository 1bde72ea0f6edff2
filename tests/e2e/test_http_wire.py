"""HTTP around the statements: bodies, tokens, paths, methods, connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.contract import (
    FRONTS,
    Node,
    RawAnswer,
    one_node,
    raw_connection,
    request_bytes,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=FRONTS)
async def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    async with one_node(tmp_path_factory.mktemp("wire") / "data", request.param) as node:
        yield node


async def raw(node: Node, payload: bytes, method: str = "POST") -> RawAnswer:
    async with raw_connection(node.server) as connection:
        await connection.send(payload)
        return await connection.answer(method)


async def post(node: Node, body: bytes, **headers: str) -> RawAnswer:
    """One SQL request of root, its body as it is."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await raw(node, request_bytes(body, node.root.token, headers=named))


# ---- bodies -------------------------------------------------------------------------------------


def sql_body(sql: str, **fields: Any) -> bytes:
    return json.dumps({"sql": sql, **fields}).encode()


ONE = sql_body("SELECT 1")
BODIES: list[tuple[str, bytes, int, str]] = [
    ("empty", b"", 400, "INVALID_INPUT"),
    ("no JSON", b"SELECT 1", 400, "INVALID_INPUT"),
    ("cut", b'{"sql": "SELECT 1"', 400, "INVALID_INPUT"),
    ("two", ONE + ONE, 400, "INVALID_INPUT"),
    ("array", b"[]", 400, "INVALID_INPUT"),
    ("null", b"null", 400, "INVALID_INPUT"),
    ("text", b'"SELECT 1"', 400, "INVALID_INPUT"),
    ("no sql", b"{}", 400, "INVALID_INPUT"),
    ("sql null", b'{"sql": null}', 400, "INVALID_INPUT"),
    ("sql number", b'{"sql": 1}', 400, "INVALID_INPUT"),
    ("unknown field", b'{"sql": "SELECT 1", "x": 1}', 400, "INVALID_INPUT"),
    ("field twice", b'{"sql": "SELECT 1", "sql": "SELECT 2"}', 400, "INVALID_INPUT"),
    ("escaped twice", b'{"sql": "SELECT 1", "s\\u0071l": "SELECT 2"}', 400, "INVALID_INPUT"),
    ("NUL in text", b'{"sql": "SELECT \\u00001"}', 400, "INVALID_INPUT"),
    ("NUL raw", b'{"sql": "SELECT \x001"}', 400, "INVALID_INPUT"),
    ("invalid UTF-8", b'{"sql": "SELECT \'\xff\'"}', 400, "INVALID_INPUT"),
    ("overlong UTF-8", b'{"sql": "SELECT \'\xc0\xaf\'"}', 400, "INVALID_INPUT"),
    ("invalid UTF-8 elsewhere", b'{"sql": "SELECT 1", "\xff": 1}', 400, "INVALID_INPUT"),
    ("lone surrogate", b'{"sql": "SELECT \'\\ud800\'"}', 400, "INVALID_INPUT"),
    ("low surrogate first", b'{"sql": "SELECT \'\\udc00\\ud800\'"}', 400, "INVALID_INPUT"),
    ("UTF-8 surrogate", b'{"sql": "SELECT \'\xed\xa0\x80\'"}', 400, "INVALID_INPUT"),
    ("BOM", b"\xef\xbb\xbf" + ONE, 400, "INVALID_INPUT"),
    ("UTF-16", '{"sql": "SELECT 1"}'.encode("utf-16"), 400, "INVALID_INPUT"),
    ("params object", b'{"sql": "SELECT 1", "params": {}}', 400, "INVALID_INPUT"),
    ("params text", b'{"sql": "SELECT 1", "params": "[]"}', 400, "INVALID_INPUT"),
    ("namespace number", b'{"sql": "SELECT 1", "namespace_id": 1}', 400, "INVALID_INPUT"),
    ("request id number", b'{"sql": "SELECT 1", "request_id": 1}', 400, "INVALID_INPUT"),
    ("request id long", sql_body("SELECT 1", request_id="x" * 201), 400, "INVALID_INPUT"),
    ("request id empty", sql_body("SELECT 1", request_id=""), 400, "INVALID_INPUT"),
    ("NaN", b'{"sql": "SELECT $1", "params": [NaN]}', 400, "INVALID_INPUT"),
    ("Infinity", b'{"sql": "SELECT $1", "params": [-Infinity]}', 400, "INVALID_INPUT"),
    ("1e999", b'{"sql": "SELECT $1", "params": [1e999]}', 400, "INVALID_*"),
    ("integer", b'{"sql": "SELECT $1", "params": [1' + b"0" * 400 + b"]}", 400, "INVALID_*"),
    ("integer of 64 bits", b'{"sql": "SELECT $1", "params": [9223372036854775808]}', 400, "INV*"),
    ("surrogate", b'{"sql": "SELECT $1", "params": ["\\ud800"]}', 400, "INVALID_INPUT"),
    ("deep array", b'{"sql": "SELECT $1", "params": ' + b"[" * 100_000, 400, "INVALID_INPUT"),
    (
        "deep array, whole",
        b'{"sql": "SELECT $1", "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        400,
        "INVALID_INPUT",
    ),
    (
        "deep object",
        b'{"sql": "SELECT $1", "params": [' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}",
        400,
        "INVALID_INPUT",
    ),
    ("deep elsewhere", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "INVALID_INPUT"),
    ("unknown namespace", sql_body("SELECT * FROM t", namespace_id="nope"), 400, "SQL_EX*"),
    ("namespace of spaces", sql_body("SELECT * FROM t", namespace_id="a b; --"), 400, "SQL_EX*"),
    ("too few params", sql_body("SELECT $1, $2", params=[1]), 400, "INVALID_PARAMETER"),
    ("too many params", sql_body("SELECT $1", params=[1, 2]), 400, "INVALID_PARAMETER"),
    ("params of none", sql_body("SELECT 1", params=[1]), 400, "INVALID_PARAMETER"),
    ("parameter zero", sql_body("SELECT $0", params=[1]), 400, "INV*"),
    ("10,001 params", sql_body("SELECT 1", params=[1] * 10_001), 400, "INVALID_PARAMETER"),
    ("params and batch", sql_body("SELECT $1; SELECT 2", params=[1]), 400, "PARAMS_WITH_BATCH"),
    ("large param", sql_body("SELECT $1", params=["x" * (MIB + 1)]), 400, "INVALID_PARAMETER"),
    ("large body", b" " * (10 * MIB) + ONE, 413, "BODY_TOO_LARGE"),
]


@pytest.mark.parametrize(
    ("what", "body", "status", "code"), BODIES, ids=[what for what, *_ in BODIES]
)
async def test_a_refused_body(node: Node, what: str, body: bytes, status: int, code: str) -> None:
    answer = await post(node, body)
    assert answer.status == status, answer.raw[:500]
    assert answer.headers["content-type"].startswith("application/json")
    said = answer.body["error"]["code"]
    assert said.startswith(code.rstrip("*")) if code.endswith("*") else said == code
    assert answer.body["status"] == "error"
    assert len(answer.raw) < 4096 or status == 413


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b/c"]
)
async def test_another_content_type_is_refused(node: Node, kind: str) -> None:
    answer = await post(node, ONE, Content_Type=kind)
    assert (answer.status, answer.body["error"]["code"]) == (400, "INVALID_INPUT")
    assert "application/json" in answer.body["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON;charset=UTF-8", 200),
        ("application/json; charset=utf-16", 400),
        ("application/json; charset=nonsense", 400),
    ],
)
async def test_charsets(node: Node, kind: str, status: int) -> None:
    assert (await post(node, ONE, Content_Type=kind)).status == status


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
async def test_a_packed_body_is_refused_and_not_unpacked(node: Node, encoding: str) -> None:
    answer = await post(node, ONE, Content_Encoding=encoding)
    assert answer.status in (400, 415)


# ---- authorization ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "MISSING_AUTHORIZATION"),
        ("Bearer", "*"),
        ("Bearer ", "*"),
        ("Bearer x", "INVALID_CREDENTIALS"),
        ("Bearer a.b.c", "INVALID_CREDENTIALS"),
        ("Bearer " + "x" * 10_000, "INVALID_CREDENTIALS"),
        ("Basic cm9vdDpyb290", "*"),
        ("Digest x", "*"),
        ("Bearer \xff\xfe", "INVALID_CREDENTIALS"),
    ],
)
async def test_no_token_no_answer(node: Node, header: str, code: str) -> None:
    answer = await raw(node, request_bytes(ONE, headers={"Authorization": header}))
    assert answer.status == 401
    said = answer.body["error"]["code"]
    assert said == code or (
        code == "*" and said in ("MISSING_AUTHORIZATION", "INVALID_CREDENTIALS")
    )
    assert answer.body["results"] == []
    assert answer.headers["www-authenticate"].startswith("bearer")


async def test_the_word_bearer_is_read_in_any_case(node: Node) -> None:
    token = f"bearer {node.root.token}"
    assert (await raw(node, request_bytes(ONE, headers={"Authorization": token}))).status == 200


async def test_the_idempotency_key_header_is_the_same(node: Node) -> None:
    await node.root.ok("CREATE USER TABLE app.head (n INT)")
    body = sql_body("INSERT INTO app.head VALUES (1)")
    for _ in range(2):
        assert (await post(node, body, Idempotency_Key="k-1")).status == 200
        assert (await post(node, body, X_Request_Id="ignored")).status == 200
    assert (await node.root.ok("SELECT COUNT(*) FROM app.head")).rows == [["3"]]
    both = sql_body("INSERT INTO app.head VALUES (1)", request_id="k-1")
    assert (await post(node, both, Idempotency_Key="k-1")).status == 200
    assert (await post(node, both, Idempotency_Key="k-2")).status == 400, "two ids contradict"
    assert (await post(node, body, Idempotency_Key="x" * 201)).status == 400
    assert (await node.root.ok("SELECT COUNT(*) FROM app.head")).rows == [["3"]]


# ---- paths, methods, connections ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "//", 404),
        ("GET", "/", 200),
        ("HEAD", "/ui", 302),
        ("GET", "/v1", 404),
        ("POST", "/v1/api/sqlx", 404),
        ("POST", "/v1/api/sql/", 404),
        ("POST", "/V1/API/SQL", 404),
        ("GET", "/v1/api/../../etc/passwd", 404),
        ("GET", "/%00", 404),
        ("GET", "/%ff%fe", 404),
        ("GET", "/v1/files/app/t/f0001/x", 404),
        ("GET", "/v1/api/sql", 405),
        ("PUT", "/v1/api/sql", 405),
        ("DELETE", "/v1/api/sql", 405),
        ("HEAD", "/v1/api/sql", 405),
        ("BREW", "/v1/api/sql", 400),
        ("POST", "/health", 405),
        ("POST", "/v1/ws", 405),
        ("GET", "/v1/api/auth/login", 405),
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/health?x=1", 200),
        ("GET", "/v1/api/healthcheck", 200),
        ("GET", "/metrics", 200),
        ("GET", "/debug/digest", 200),
        ("GET", "/debug/raft", 200),
        ("GET", "/v1/ws", 400),
    ],
)
async def test_paths_and_methods(node: Node, method: str, path: str, status: int) -> None:
    answer = await raw(node, request_bytes(b"", method=method, path=path), method)
    assert answer.status == status, answer.raw[:300]
    if status == 405:
        assert answer.headers["allow"]
    if status == 404:
        assert answer.body["error"] == "NOT_FOUND"
    if status >= 400 and method != "HEAD":
        assert answer.headers["content-type"].startswith("application/json")
        assert isinstance(answer.body, dict)


async def test_health_says_who_it_is(node: Node) -> None:
    answer = await raw(node, request_bytes(b"", method="GET", path="/health"))
    assert answer.body["status"] == "healthy"
    assert answer.body["api_version"] == "v1"
    assert answer.body["version"]


async def test_options_is_no_500_and_opens_nothing(node: Node) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for path in ("/v1/api/sql", "/health", "/nope", "*"):
        answer = await raw(node, request_bytes(b"", method="OPTIONS", path=path, headers=headers))
        assert answer.status in (200, 204, 400, 403, 404, 405)
        assert "access-control-allow-origin" not in answer.headers


async def test_one_connection_serves_many_requests_in_order(node: Node) -> None:
    def numbered(number: int) -> bytes:
        return request_bytes(sql_body("SELECT $1 AS n", params=[number]), node.root.token)

    def reads(answer: RawAnswer) -> Any:
        return answer.body["results"][0]["rows"][0][0]

    async with raw_connection(node.server) as connection:
        for number in range(3):
            await connection.send(numbered(number))
            assert reads(await connection.answer()) == str(number)
        await connection.send(b"".join(numbered(number) for number in range(10)))
        assert [reads(await connection.answer()) for _ in range(10)] == [str(n) for n in range(10)]
        await connection.send(request_bytes(b"nonsense", node.root.token) + numbered(7))
        assert (await connection.answer()).status == 400
        assert reads(await connection.answer()) == "7"
        await connection.send(request_bytes(b"", method="GET", path="/health") + numbered(8))
        assert (await connection.answer()).status == 200
        assert reads(await connection.answer()) == "8"


async def test_bodies_in_pieces(node: Node) -> None:
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    async with raw_connection(node.server) as connection:
        await connection.send(request_bytes(b"", node.root.token, headers=chunked))
        for byte in ONE:
            await connection.send(b"1\r\n" + bytes([byte]) + b"\r\n")
        await connection.send(b"0\r\n\r\n")
        assert (await connection.answer()).status == 200
        whole = request_bytes(ONE, node.root.token)
        for at in range(len(whole)):
            await connection.send(whole[at : at + 1])
        assert (await connection.answer()).status == 200


async def test_a_chunked_body_has_the_same_limit(node: Node) -> None:
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    async with raw_connection(node.server) as connection:
        await connection.send(request_bytes(b"", node.root.token, headers=chunked))
        piece = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"
        try:
            for _ in range(12):
                await connection.send(piece)
        except ConnectionError:
            pass  # it need not read to the end what it has refused
        assert (await connection.answer()).status == 413


async def test_an_announced_body_above_the_limit_is_refused_before_it_is_sent(node: Node) -> None:
    async with raw_connection(node.server) as connection:
        announced = {"Content-Length": str(1 << 40)}
        await connection.send(request_bytes(b"", node.root.token, headers=announced))
        answer = await connection.answer()
        assert (answer.status, answer.body["error"]["code"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-1"},
        {"Content-Length": "1x"},
        {"Content-Length": "9" * 100},
        {"Content-Length": "18", "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "nonsense"},
        {"X-Long": "x" * 100_000},
        {"Bad\x01Name": "x"},
        {"X-Bad": "a\x00b"},
    ],
)
async def test_a_broken_head_is_a_400(node: Node, headers: dict[str, str]) -> None:
    answer = await raw(node, request_bytes(ONE, node.root.token, headers=headers))
    assert 400 <= answer.status < 500
    assert answer.headers["content-type"].startswith("application/json")


async def test_who_asks_before_sending_is_told_to_go_on(node: Node) -> None:
    async with raw_connection(node.server) as connection:
        asking = request_bytes(ONE, node.root.token, headers={"Expect": "100-continue"})
        await connection.send(asking[: -len(ONE)])
        assert (await connection.answer()).status == 100
        await connection.send(ONE)
        assert (await connection.answer()).status == 200
        refused = request_bytes(b"", headers={"Expect": "nonsense"})
        await connection.send(refused)
        assert 400 <= (await connection.answer()).status < 500


async def test_older_and_closing_clients_are_served_and_hung_up_on(node: Node) -> None:
    older = request_bytes(ONE, node.root.token).replace(b"HTTP/1.1", b"HTTP/1.0")
    for payload in (older, request_bytes(ONE, node.root.token, headers={"Connection": "close"})):
        async with raw_connection(node.server) as connection:
            await connection.send(payload)
            assert (await connection.answer()).status == 200
            assert await connection.ended() == b""


async def test_two_lengths_are_refused(node: Node) -> None:
    twice = request_bytes(ONE, node.root.token).replace(
        b"Content-Length", b"Content-Length: 3\r\nContent-Length", 1
    )
    assert (await raw(node, twice)).status == 400


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 100, b"\r\n"]
)
async def test_noise_on_the_port_hurts_nobody(node: Node, noise: bytes) -> None:
    async with raw_connection(node.server) as connection:
        await connection.send(noise)
        connection.writer.write_eof()
        said = await connection.ended()
        assert said == b"" or b" 400 " in said.split(b"\r\n")[0]
    assert node.server.healthy()


async def test_a_request_cut_off_is_not_run(node: Node) -> None:
    await node.root.ok("CREATE USER TABLE app.cut (n INT)")
    whole = request_bytes(sql_body("INSERT INTO app.cut VALUES (1)"), node.root.token)
    for kept in (10, len(whole) // 2, len(whole) - 1):
        async with raw_connection(node.server) as connection:
            await connection.send(whole[:kept])
    assert (await node.root.ok("SELECT COUNT(*) FROM app.cut")).rows == [["0"]]
    longer = request_bytes(ONE, node.root.token, headers={"Content-Length": str(len(ONE) + 5)})
    async with raw_connection(node.server) as connection:
        await connection.send(longer)
        connection.writer.write_eof()
        said = await connection.ended()
        assert said == b"" or b" 400 " in said.split(b"\r\n")[0]


async def test_who_hangs_up_early_leaves_no_trace(node: Node) -> None:
    for _ in range(50):
        async with raw_connection(node.server) as connection:
            await connection.send(request_bytes(sql_body("SELECT 1"), node.root.token))
    assert (await node.root.ok("SELECT 1 AS one")).rows == [["1"]]


async def test_the_log_has_no_traceback(node: Node) -> None:
    """Stands last: nothing above was a bug that hid behind a right status."""
    said = node.server.log.read_text()
    assert '"level":"error"' not in said, said[-4000:]
    assert "Traceback" not in said, said[-4000:]
