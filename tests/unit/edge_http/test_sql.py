"""POST /v1/api/sql: what it passes on, what it refuses, and how each error looks."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import structlog

from kalamdb import errors
from kalamdb.edge import faults
from kalamdb.edge.http.sql import CHECKED_WHOLE_MAX_BYTES
from kalamdb.errors import KalamError
from kalamdb.lib.observe import configure_logging
from kalamdb.session.run import SqlRequest
from tests.unit.edge_http.world import ANSWER, World, changed, opened

pytestmark = pytest.mark.usefixtures("each_front")

SELECT = {"sql": "SELECT 1"}


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    async with opened() as made:
        yield made


# ── what goes through ────────────────────────────────────────────────────────────────────────────


async def test_a_request_goes_to_the_session_and_its_answer_back(world: World) -> None:
    params = [1, "a", None, 1.5, {"k": [True]}]
    body = {"sql": "SELECT $1", "params": params, "namespace_id": "chat"}
    response = await world.sql(body)
    assert (response.status, await response.read()) == (200, ANSWER)
    assert response.headers["Content-Type"] == "application/json"
    assert "aiohttp" not in response.headers["Server"].lower()
    principal, asked = world.session.asked[0]
    assert principal.user == "alice"
    assert asked == SqlRequest("SELECT $1", params, "chat", None, streams=True)


async def test_a_large_answer_and_the_next_request_on_its_connection(world: World) -> None:
    world.session.answer = b"x" * 1_000_000
    for _ in range(2):
        assert len(await (await world.sql(SELECT)).read()) == 1_000_000
    world.session.answer = ANSWER
    assert await (await world.sql(SELECT)).read() == ANSWER


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_connection_that_closes(world: World, version: bytes) -> None:
    reader, writer = await asyncio.open_connection(world.http.host, world.http.port)
    raw = json.dumps(SELECT).encode()
    writer.write(
        b"POST /v1/api/sql HTTP/%b\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer %b\r\n\r\n%b"
        % (version, len(raw), world.tokens["alice"].encode(), raw)
    )
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/%b 200" % version)
    assert answer.endswith(ANSWER)
    writer.close()


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    reader, writer = await asyncio.open_connection(world.http.host, world.http.port)
    raw = json.dumps(SELECT).encode()
    one = (
        b"POST /v1/api/sql HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
        b"Authorization: Bearer %b\r\n\r\n%b" % (len(raw), world.tokens["alice"].encode(), raw)
    )
    writer.write(one * 3)
    seen = b""
    while seen.count(ANSWER) < 3:
        seen += await asyncio.wait_for(reader.read(4096), 5)
    assert seen.count(b"HTTP/1.1 200 OK") == 3
    writer.close()


async def test_who_does_not_read_is_not_served_ahead(world: World) -> None:
    world.session.answer = b"x" * 60_000
    reader, writer = await asyncio.open_connection(world.http.host, world.http.port, limit=1 << 16)
    raw = json.dumps(SELECT).encode()
    one = (
        b"POST /v1/api/sql HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
        b"Authorization: Bearer %b\r\n\r\n%b" % (len(raw), world.tokens["alice"].encode(), raw)
    )
    writer.write(one * 500)
    for _ in range(5000):
        await asyncio.sleep(0)
    assert 1 < len(world.session.asked) < 400
    seen = 0
    while seen < 500 * 60_000:
        seen += len(await asyncio.wait_for(reader.read(1 << 20), 5))
    assert len(world.session.asked) == 500
    writer.close()


@pytest.mark.parametrize(
    "kind",
    ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"'],
)
async def test_other_ways_to_say_json(world: World, kind: str) -> None:
    assert (await world.sql(SELECT, headers={"Content-Type": kind})).status == 200


async def test_a_compressed_body(world: World) -> None:
    raw = gzip.compress(json.dumps(SELECT).encode())
    assert (await world.sql(raw, headers={"Content-Encoding": "gzip"})).status == 200


@pytest.mark.parametrize(
    ("body_id", "header", "seen"),
    [(None, "h", "h"), ("b", None, "b"), ("same", "same", "same"), (None, None, None)],
)
async def test_request_ids(
    world: World, body_id: str | None, header: str | None, seen: str | None
) -> None:
    headers = {"X-Request-Id": "for logs only"}
    if header is not None:
        headers["Idempotency-Key"] = header
    await world.sql({**SELECT, "request_id": body_id}, headers=headers)
    assert world.session.asked[0][1].request_id == seen


async def test_a_statement_that_quotes_its_own_fields(world: World) -> None:
    text = """SELECT '"sql" "sql" "params"'"""
    assert (await world.sql({"sql": text, "params": ['"sql"']})).status == 200
    assert world.session.asked[0][1].sql == text


async def test_fields_of_a_large_body_are_counted(world: World) -> None:
    nested = [{"sql": '"sql"', "params": ["sql", None]}] * 3_000
    body = json.dumps({"sql": "SELECT $1", "params": [nested, "request_id"]})
    assert len(body) > CHECKED_WHOLE_MAX_BYTES
    assert (await world.sql(body.encode())).status == 200
    for again in ('"sql": "SELECT 2"', '"p\\u0061rams": null', '"request_id": null'):
        twice = f'{{"request_id": "a", {body[1:-1]}, {again}}}'
        status, error = await world.refused(twice.encode())
        assert (status, error["code"]) == (400, "INVALID_INPUT")
        assert "twice" in error["message"]
    assert len(world.session.asked) == 1


# ── what is refused ──────────────────────────────────────────────────────────────────────────────

MALFORMED: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}),
    (b"SELECT 1", {}),
    (b"[]", {}),
    (b"{}", {}),
    (b'{"sql":1}', {}),
    (b'{"sql":null}', {}),
    (b'{"sql":"SELECT 1"', {}),
    (b'{"sql":"SELECT 1"} x', {}),
    (b'{"sql":"SELECT 1","params":{}}', {}),
    (b'{"sql":"SELECT 1","params":[NaN]}', {}),
    (b'{"sql":"SELECT 1","parms":[1]}', {}),
    (b'{"sql":"SELECT 1","namespace_id":7}', {}),
    (b'{"sql":"SELECT 1","sql":"SELECT 2"}', {}),
    (b'{"sql":"SELECT $1","params":[1],"params":[2]}', {}),
    (b'{"sql":"SELECT \xff"}', {}),
    (b'{"sql":"SELECT \\ud800"}', {}),
    (b'{"sql":"SELECT \\u0000"}', {}),
    (b'{"sql":"SELECT \x00"}', {}),
    (b'{"sql":"SELECT 1","params":' + b"[" * 10_000 + b"]" * 10_000 + b"}", {}),
    (b'{"sql":"SELECT 1","request_id":""}', {}),
    (b'{"sql":"SELECT 1","request_id":"' + b"x" * 201 + b'"}', {}),
    (b'{"sql":"SELECT 1","request_id":"a"}', {"Idempotency-Key": "b"}),
    (b'{"sql":"SELECT 1"}', {"Content-Type": "text/plain"}),
    (b'{"sql":"SELECT 1"}', {"Content-Type": "application/x-www-form-urlencoded"}),
    (b'{"sql":"SELECT 1"}', {"Content-Type": "application/json; charset=utf-16"}),
    (b"no gzip at all", {"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize(("body", "headers"), MALFORMED)
async def test_malformed(world: World, body: bytes, headers: dict[str, str]) -> None:
    status, error = await world.refused(body, headers=headers)
    assert (status, error["code"]) == (400, "INVALID_INPUT")
    assert world.session.asked == []


async def test_long_statements() -> None:
    async with opened(changed("limits", max_statement_bytes=2000, max_body_bytes=8000)) as world:
        assert (await world.sql({"sql": "x" * 2000})).status == 200
        status, error = await world.refused({"sql": "ä" * 1001})
        assert (status, error["code"]) == (400, "INVALID_SQL")
        assert (await world.sql({"sql": "x", "params": ["p" * 7000]})).status == 200
        status, error = await world.refused({"sql": "x", "params": ["p" * 8000]})
        assert (status, error["code"]) == (413, "BODY_TOO_LARGE")
        assert "8000" in error["message"]


async def test_a_body_that_unpacks_to_too_much() -> None:
    async with opened(changed("limits", max_statement_bytes=2000, max_body_bytes=8000)) as world:
        raw = gzip.compress(json.dumps({"sql": "x", "params": ["p" * 1_000_000]}).encode())
        assert len(raw) < 8000
        status, error = await world.refused(raw, headers={"Content-Encoding": "gzip"})
        assert (status, error["code"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "MISSING_AUTHORIZATION"),
        ("Basic YTpi", "INVALID_CREDENTIALS"),
        ("Bearer nonsense", "INVALID_CREDENTIALS"),
        ("Bearer", "INVALID_CREDENTIALS"),
    ],
)
async def test_who_is_not_signed_in(world: World, header: str | None, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    if header is not None:
        headers["Authorization"] = header
    response = await world.http.post("/v1/api/sql", data=b"{}", headers=headers)
    answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (401, code)
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_an_expired_token(world: World) -> None:
    world.clock.pass_s(100_000)
    status, error = await world.refused(SELECT)
    assert (status, error["code"]) == (401, "TOKEN_EXPIRED")


# ── errors of the tree ───────────────────────────────────────────────────────────────────────────


def every_error(root: type[KalamError] = KalamError) -> list[type[KalamError]]:
    return [root, *(each for child in root.__subclasses__() for each in every_error(child))]


def example(kind: type[KalamError]) -> KalamError:
    """An instance with plausible fields."""
    values: dict[str, Any] = {"columns": ("id",), "retry_after_s": 2.5, "limit_s": 2.5}
    return kind(**{name: values.get(name, f"<{name}>") for name in kind.fields})


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
async def test_every_error_has_its_envelope(world: World, kind: type[KalamError]) -> None:
    world.session.failure = example(kind)
    fault = faults.FAULTS[kind]
    status, error = await world.refused(SELECT)
    assert (status, error["code"]) == (fault.status, fault.code)
    assert error["sqlstate"] == fault.sqlstate
    assert len(fault.sqlstate) == 5
    said = faults.BUG_MESSAGE if fault.status == 500 else str(world.session.failure)
    assert error["message"] == said
    assert "details" not in error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.UnknownTable("chat.x"), 400, "SQL_EXECUTION_ERROR"),
        (errors.UniqueViolation("chat.x", ("id",), "1"), 400, "SQL_EXECUTION_ERROR"),
        (errors.Unsupported("MERGE", None), 400, "UNSUPPORTED"),
        (errors.PermissionDenied("writing", "role service"), 403, "PERMISSION_DENIED"),
        (errors.Conflict(None), 409, "CONFLICT"),
        (errors.RequestIdReused("r"), 422, "REQUEST_ID_REUSED"),
        (errors.Indeterminate("leader lost"), 504, "OUTCOME_UNKNOWN"),
        (errors.NotLeader(3, None), 503, "NOT_LEADER"),
        (errors.Unavailable("starting"), 503, "CLUSTER_UNAVAILABLE"),
        (errors.DiskFull(1, 2), 503, "DISK_FULL"),
        (errors.CursorExpired(1, "ahead"), 410, "CURSOR_EXPIRED"),
        (errors.ResultTooLarge("limits.max_result_rows", 9), 400, "RESULT_TOO_LARGE"),
        (errors.QueryTimeout(1), 400, "QUERY_TIMEOUT"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_clients_rely_on(
    world: World, error: KalamError, status: int, code: str
) -> None:
    world.session.failure = error
    found_status, found = await world.refused(SELECT)
    assert (found_status, found["code"]) == (status, code)


async def test_a_failed_statement_of_a_batch_is_numbered(world: World) -> None:
    world.session.failure = errors.UnknownTable("chat.x")
    world.session.failure.__dict__["statement"] = 2
    _, error = await world.refused(SELECT)
    assert error["message"] == "Statement 2 failed: table chat.x does not exist"


async def test_only_administrators_see_the_statement(world: World) -> None:
    world.session.failure = errors.UnknownTable("chat.x")
    _, error = await world.refused(SELECT, user="dora")
    assert error["details"] == "SELECT 1"


async def test_retry_after(world: World) -> None:
    for error, seconds in (
        (errors.Overloaded("the queue", 9), "1"),
        (errors.RateLimited("a limit", 2.5), "3"),
    ):
        world.session.failure = error
        assert (await world.sql(SELECT)).headers["Retry-After"] == seconds
    world.session.failure = errors.Indeterminate("x")
    assert "Retry-After" not in (await world.sql(SELECT)).headers


async def test_a_bug_is_a_plain_500(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    world.session.failure = RuntimeError("of this kind")
    status, error = await world.refused({"sql": "SELECT 'a row'"})
    assert (status, error["code"]) == (500, "INTERNAL_ERROR")
    assert "of this kind" not in json.dumps(error)
    logged = capsys.readouterr().err
    assert json.loads(logged)["event"] == "sql_failed"
    assert "of this kind" in logged
    for private in ("a row", world.tokens["alice"]):
        assert private not in logged
    structlog.reset_defaults()


# ── rates ────────────────────────────────────────────────────────────────────────────────────────


async def test_strangers_are_limited_and_users_are_not() -> None:
    async with opened(changed("rate_limit", auth_per_ip_per_s=1.0)) as world:
        bad = {"Authorization": "Bearer nonsense"}
        statuses = [(await world.sql(SELECT, headers=bad)).status for _ in range(7)]
        assert statuses == [401] * 5 + [429] * 2
        assert [(await world.sql(SELECT)).status for _ in range(20)] == [200] * 20
        world.clock.pass_s(1)
        assert (await world.sql(SELECT, headers=bad)).status == 401


async def test_the_limit_of_one_user() -> None:
    async with opened(changed("rate_limit", queries_per_user_per_s=2.0)) as world:
        statuses = [(await world.sql(SELECT)).status for _ in range(5)]
        assert statuses == [200] * 4 + [429]
        assert (await world.sql(SELECT, user="dora")).status == 200


async def test_limits_can_be_off() -> None:
    async with opened(changed("rate_limit", enabled=False, queries_per_user_per_s=1.0)) as world:
        assert [(await world.sql(SELECT)).status for _ in range(9)] == [200] * 9
