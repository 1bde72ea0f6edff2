"""Bytes from strangers at the HTTP port: no 500, no hang, others are served; both fronts say the
same.

Two servers, one with the fast front and one without, are sent the same: well-formed requests in
every order, cut into pieces anywhere or all at once, must get equal answers; broken ones must be
refused or hung up on. All is drawn from seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.contract import FRONTS, Node, one_node, request_bytes
from tests.property.grammar import junk

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOTH: list[Any] = [front.values[0] for front in FRONTS]
SEEDS = range(60)
BROKEN_SEEDS = range(250)
SILENCE_S = 0.4  # a connection that says nothing for so long waits for the rest of a request
PATIENCE_S = 15.0
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What no two servers say alike.
OWN_HEADERS = frozenset(("date", "server", "keep-alive"))

DDL = (
    "CREATE USER TABLE app.notes (id INT PRIMARY KEY, txt TEXT, n BIGINT UNIQUE)",
    "INSERT INTO app.notes VALUES (1, 'a', 1), (2, 'é', NULL)",
)
STATEMENTS = (
    "SELECT id, txt FROM app.notes WHERE id = 1",
    "SELECT id, txt, n FROM app.notes ORDER BY id",
    "SELECT txt FROM app.notes WHERE id = $1",
    "INSERT INTO app.notes VALUES (3, 'c', 1)",
    "UPDATE app.notes SET txt = 'x' WHERE id = 99",
    "SELECT nope FROM app.notes",
    "SELEKT",
    "",
    "DESCRIBE app.notes; SELECT 1 AS one",
    "BEGIN; SELECT 1 AS one; ROLLBACK",
    "SELECT 'é' AS a, $1 AS b",
)
HEADERS = (
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=utf-8"},
    {"Content-Type": ""},
    {"Authorization": "Bearer nonsense"},
    {"Authorization": "Basic cm9vdDp4"},
    {"Authorization": ""},
    {"Origin": "https://else.example"},
    {"Cookie": "a=b; kalamdb=1"},
    {"X-Forwarded-For": "1.2.3.4, 5.6.7.8"},
    {"X-Request-Id": "x" * 300},
    {"Idempotency-Key": "k1"},
    {"Accept-Encoding": "gzip"},
    {"Expect": "100-continue"},
    {"Connection": "keep-alive"},
    {"A": "b" * 4000},
)
PATHS = ("/v1/api/sql", "/v1/api/sql?x=1", "/V1/api/sql", "/v1/api/sql/", "/nope", "/health", "//")
SCRAPS = (
    b"\r\n\r\n",
    b"\r\n",
    b"\n\n",
    b"\x00",
    b"HTTP/1.1",
    b"HTTP/9.9",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"ffffffffffffffff\r\n",
    b": empty\r\n",
    b"X: \xff\xfe\r\n",
    b" folded\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"Host: a\r\nHost: b\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"A" * 9000,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    """One node with each front, the same rows in both."""
    async with contextlib.AsyncExitStack() as stack:
        found: list[Node] = []
        for number, front in enumerate(BOTH):
            data = tmp_path_factory.mktemp("fronts") / f"data{number}"
            node = await stack.enter_async_context(one_node(data, front))
            for sql in DDL:
                await node.root.ok(sql)
            found.append(node)
        yield found


async def talk(node: Node, pieces: list[bytes], *, ends: bool = False) -> bytes:
    """All that comes back for these pieces, until the server hangs up; where it need not, or until
    it falls silent.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", node.server.port)
    said = bytearray()
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in pieces:
                writer.write(piece)
                async with asyncio.timeout(PATIENCE_S):
                    await writer.drain()
            while True:
                # A query may take its time; what is silent after an answer is done.
                patience_s = PATIENCE_S if ends else SILENCE_S if said else 2.0
                async with asyncio.timeout(patience_s):
                    heard = await reader.read(1 << 16)
                if not heard:
                    break
                said += heard
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(said)


def cut(dice: Random, payload: bytes) -> list[bytes]:
    """In one piece, in several, or byte by byte at the front."""
    match dice.randint(0, 3):
        case 0:
            return [payload]
        case 1:
            return [payload[at : at + 1] for at in range(40)] + [payload[40:]]
        case _:
            places = sorted(dice.randrange(len(payload)) for _ in range(dice.randint(1, 6)))
            return [payload[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]


# ---- well-formed --------------------------------------------------------------------------------


def body_of(dice: Random) -> bytes:
    if dice.random() < 0.1:
        return dice.choice((b"", b"{", b"[]", b'{"sql": 1}', b'{"sql": "SELECT 1", "x": 1}'))
    body: dict[str, Any] = {"sql": dice.choice(STATEMENTS)}
    if "$1" in body["sql"] or dice.random() < 0.1:
        body["params"] = [dice.choice((1, 2, "1", None, "é"))]
    if dice.random() < 0.2:
        body["namespace_id"] = dice.choice(("app", "nope", "default"))
    return json.dumps(body, ensure_ascii=dice.random() < 0.5).encode()


def request_of(dice: Random, token: str, *, last: bool) -> bytes:
    body = body_of(dice)
    headers = dict(dice.choice(HEADERS)) if dice.random() < 0.4 else {}
    if last:
        headers["Connection"] = "close"
    path = dice.choice(PATHS) if dice.random() < 0.15 else PATHS[0]
    method = dice.choice(("GET", "PUT", "OPTIONS", "DELETE")) if dice.random() < 0.1 else "POST"
    if dice.random() < 0.2:
        headers |= {"Transfer-Encoding": "chunked", "Content-Length": ""}
        middle = dice.randint(0, len(body))
        parts = [part for part in (body[:middle], body[middle:]) if part]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    sent = token if "Authorization" not in headers else None
    return request_bytes(body, sent, method=method, path=path, headers=headers)


def answers(said: bytes) -> list[tuple[int, dict[str, str], Any]]:
    """The responses one after another, without what differs by time and server."""
    found: list[tuple[int, dict[str, str], Any]] = []
    while said:
        head, gap, rest = said.partition(b"\r\n\r\n")
        assert gap, said[:200]
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in fields.items()}
        status = int(first.split()[1])
        length = 0 if status == 100 else int(headers.pop("content-length", "0"))
        body, said = rest[:length], rest[length:]
        assert len(body) == length, "an answer was cut"
        if status != 100:
            kept = {name: value for name, value in headers.items() if name not in OWN_HEADERS}
            kept.pop("x-request-id", None)
            found.append((status, kept, timeless(body)))
    return found


def timeless(body: bytes) -> Any:
    if not body.startswith(b"{"):
        return body
    whole = json.loads(UUID.sub(b"<uuid>", body))
    for changing in ("took", "uptime_s", "timestamp"):
        whole.pop(changing, None)
    for result in whole.get("results", ()):
        for changing in ("cursor", "seq"):
            result.pop(changing, None)
    return whole


@pytest.mark.parametrize("seed", SEEDS)
async def test_well_formed_requests(nodes: list[Node], seed: int) -> None:
    heard: list[Any] = []
    for node in nodes:
        dice = Random(seed)  # the same again but for the token
        count = dice.randint(1, 6)
        requests = [request_of(dice, node.root.token, last=n == count - 1) for n in range(count)]
        said = await talk(node, cut(dice, b"".join(requests)), ends=True)
        heard.append(answers(said))
    assert heard[0] == heard[1]
    assert all(status != 500 for status, _, _ in heard[0])


# ---- broken -------------------------------------------------------------------------------------


def spoilt(dice: Random, payload: bytes) -> bytes:
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(payload) + 1)
        match dice.randint(0, 6):
            case 0:
                payload = payload[:at] + dice.choice(SCRAPS) + payload[at:]
            case 1:
                payload = payload[:at] + payload[at + dice.randint(1, 40) :]
            case 2:
                payload = payload[:at] + dice.randbytes(dice.randint(1, 40)) + payload[at:]
            case 3:
                payload = payload.replace(b"\r\n", dice.choice((b"\n", b"\r", b"\r\n\r\n")), 1)
            case 4:
                head = payload.partition(b"\r\n")[2]
                payload = (
                    dice.choice((b"POST", b"\x00", b"GET / HTTP/1.1", b"POST * HTTP/1.1"))
                    + b"\r\n"
                    + head
                )
            case 5:
                payload = payload[:at] + payload[:at] + payload[at:]
            case _:
                payload = dice.choice(SCRAPS) + payload
    return payload


async def test_broken_bytes(nodes: list[Node]) -> None:
    """Many at once, and between them somebody who is well-behaved."""

    async def attack(node: Node, seed: int) -> None:
        dice = Random(seed)
        payload = b"".join(
            request_of(dice, node.root.token, last=False) for _ in range(dice.randint(1, 3))
        )
        if seed % 10 == 0:
            payload = dice.randbytes(dice.randint(1, 4000))
        said = await talk(node, cut(dice, spoilt(dice, payload) + b"x" * 64))
        statuses = STATUS.findall(said)
        assert b"500" not in statuses, (seed, said[:1000])

    for node in nodes:
        for first in range(0, len(BROKEN_SEEDS), 50):
            async with asyncio.TaskGroup() as group:
                for seed in BROKEN_SEEDS[first : first + 50]:
                    group.create_task(attack(node, seed))
                async with asyncio.timeout(PATIENCE_S):
                    assert (await node.root.ok("SELECT 1 AS one")).rows == [["1"]]
        assert "Traceback" not in node.server.log.read_text()


# ---- WebSocket ----------------------------------------------------------------------------------

WORDS = ("authenticate", "subscribe", "unsubscribe", "next_batch", "ping", "sql", "query", "nope")


def frame_of(dice: Random, token: str) -> Any:
    """A message that somebody could think of."""
    match dice.randint(0, 9):
        case 0:
            return dice.randbytes(dice.randint(0, 200))
        case 1:
            return "".join(map(chr, (dice.randint(1, 0xD7FF) for _ in range(20))))
        case 2:
            return json.dumps(junk(dice))
        case 3:
            return "[" * dice.randint(1, 3000)
        case 4:
            return json.dumps({"type": dice.choice(WORDS), "x": "y" * dice.choice((10, 1 << 17))})
        case 5:
            wish = {"id": "a", "sql": dice.choice(("SELECT * FROM app.notes", "SELEKT", "", 1))}
            wish["options"] = dice.choice((None, {}, {"last_rows": -1}, {"from": "x"}, [], 5))
            return json.dumps({"type": "subscribe", "subscription": wish})
        case 6:
            return json.dumps({"type": "authenticate", "method": "jwt", "token": token})
        case 7:
            return json.dumps(
                {"type": dice.choice(WORDS), "subscription_id": dice.choice(("a", 1, None))}
            )
        case 8:
            body = {"sql": dice.choice(STATEMENTS), "id": "q"}
            return json.dumps({"type": "sql", **body})
        case _:
            return json.dumps(
                {
                    "type": dice.choice(WORDS),
                    **dict.fromkeys(("id", "sql", "token", "subscription"), junk(dice, 1)),
                }
            )


async def test_frames_of_all_kinds(nodes: list[Node]) -> None:
    node = nodes[0]

    async def chat(seed: int) -> None:
        dice = Random(seed)
        query = dice.choice(("", "?compression=none", "?serialization=msgpack", "?x=\u20ac"))
        async with node.http.ws_connect(f"{node.server.url}/v1/ws{query}", autoclose=False) as ws:
            if dice.random() < 0.7:
                login: dict[str, Any] = {
                    "type": "authenticate",
                    "method": "jwt",
                    "token": node.root.token,
                }
                if dice.random() < 0.3:
                    login["protocol"] = {"serialization": "msgpack", "compression": "none"}
                await ws.send_json(login)
            with contextlib.suppress(ConnectionError):
                for _ in range(dice.randint(1, 12)):
                    frame = frame_of(dice, node.root.token)
                    if isinstance(frame, bytes):
                        await ws.send_bytes(frame)
                    else:
                        await ws.send_str(frame)
            with contextlib.suppress(TimeoutError):
                while not ws.closed:
                    message = await ws.receive(SILENCE_S)
                    if message.type.name in ("CLOSE", "CLOSED", "CLOSING", "ERROR"):
                        # 1011 is for what is no JSON, in the words of who reads it.
                        bug = message.data == 1011 and not message.extra
                        assert not bug, (seed, message)
                        break
                    assert b"INTERNAL_ERROR" not in as_bytes(message.data), (seed, message)

    for first in range(0, 200, 50):
        async with asyncio.TaskGroup() as group:
            for seed in range(first, first + 50):
                group.create_task(chat(seed))
            async with asyncio.timeout(PATIENCE_S):
                assert (await node.root.ok("SELECT 1 AS one")).rows == [["1"]]
    assert "Traceback" not in node.server.log.read_text()


def as_bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else str(data).encode()
