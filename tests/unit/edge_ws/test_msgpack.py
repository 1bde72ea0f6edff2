"""Connections that speak msgpack: the same messages, made once for all who want them so."""

from __future__ import annotations

import gzip
from typing import Any

import aiohttp
import msgspec
import orjson
import pytest

from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.frames import event_frame
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.msgpack import Unreadable, packed_prefix, packed_tail, unpacked
from kalamdb.edge.ws.outbox import Outbox
from kalamdb.feed.events import FeedEvent, event_prefix
from kalamdb.model.ids import Seq
from tests.unit.edge_ws.house import ALL, Client, House, opened
from tests.unit.feed.group import Write, note

pack = msgspec.msgpack.encode
BODY = "x" * 2000


class PackedClient:
    """Says and hears msgpack; knows JSON when it comes as text."""

    def __init__(self, client: Client, *, zipped: bool) -> None:
        self.socket = client.socket
        self.zipped = zipped
        self.kinds: list[str] = []

    async def send(self, **message: Any) -> None:
        payload = pack(message)
        await self.socket.send_bytes(gzip.compress(payload) if self.zipped else payload)

    async def frame(self) -> dict[str, Any]:
        message = await self.socket.receive(timeout=10)
        if message.type is aiohttp.WSMsgType.TEXT:
            self.kinds.append("json")
            return orjson.loads(message.data)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        data: bytes = message.data
        self.kinds.append("gzip" if data[:2] == b"\x1f\x8b" else "msgpack")
        return msgspec.msgpack.decode(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)


async def packed(house: House, query: str = "", compression: str = "gzip") -> PackedClient:
    client = await house.connect(query)
    await client.send(
        type="authenticate",
        method="jwt",
        token="alice",
        protocol={"serialization": "msgpack", "compression": compression},
    )
    frame = await client.frame()
    assert client.kinds == [aiohttp.WSMsgType.TEXT], "signing in is answered with JSON"
    assert frame["protocol"] == {"serialization": "msgpack", "compression": compression}
    return PackedClient(client, zipped=compression == "gzip")


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_a_conversation(compression: str) -> None:
    async with opened() as house:
        house.group.write([Write(1, note(1, "r", BODY))])
        they = await packed(house, compression=compression)
        await they.send(
            type="subscribe", subscription={"id": "s", "sql": ALL, "options": {"from": "0"}}
        )
        ack, page = await they.frame(), await they.frame()
        assert (ack["type"], page["type"]) == ("subscription_ack", "initial_data_batch")
        assert page["rows"][0]["body"] == BODY
        house.group.write([Write(2, note(2, "r", BODY))], [Write(2, None)])
        put, gone = await they.frame(), await they.frame()
        assert (put["type"], put["subscription_id"], put["change_type"]) == (
            "change",
            "s",
            "insert",
        )
        assert put["rows"][0]["id"] == "2"
        assert gone["change_type"] == "delete"
        large = "gzip" if compression == "gzip" else "msgpack"
        assert they.kinds == ["msgpack", large, large, large]
        await they.send(type="ping")
        assert await they.frame() == {"type": "pong"}
        await they.send(type="subscribe", subscription={"id": "t", "sql": "syntax"})
        assert (await they.frame())["code"] == "INVALID_SQL"
        assert they.kinds[-2:] == ["msgpack", "json"], "errors are JSON for everybody"
        await they.socket.close()


async def test_header_auth_takes_it_from_the_address() -> None:
    async with opened() as house:
        headers = {"Authorization": "Bearer root"}
        async with await house.connect("?serialization=msgpack", headers=headers) as client:
            assert (await client.frame())["protocol"]["serialization"] == "msgpack"


async def test_text_frames_of_json_are_read_as_well() -> None:
    async with opened() as house:
        they = await packed(house)
        await they.socket.send_str('{"type":"ping"}')
        assert await they.frame() == {"type": "pong"}
        await they.socket.close()


async def test_bytes_that_are_no_msgpack_end_the_connection() -> None:
    async with opened() as house:
        they = await packed(house)
        await they.socket.send_bytes(b"\xc1\xc1")
        assert (await they.frame())["code"] == "PROTOCOL"
        message = await they.socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == 1011


async def test_gzip_that_unpacks_to_too_much_is_refused_and_the_connection_stays() -> None:
    async with opened(WsLimits(message_max_bytes=10_000)) as house:
        they = await packed(house)
        await they.socket.send_bytes(gzip.compress(bytes(1 << 20)))
        assert (await they.frame())["code"] == "MESSAGE_TOO_LARGE"
        await they.send(type="ping")
        assert await they.frame() == {"type": "pong"}
        await they.socket.close()


async def test_binary_frames_are_refused_where_json_is_spoken() -> None:
    async with opened() as house, await house.alice() as client:
        await client.socket.send_bytes(pack({"type": "ping"}))
        assert (await client.frame())["code"] == "UNSUPPORTED_DATA"


@pytest.mark.parametrize(
    "payload", [gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"x", b"\x1f\x8bnone"]
)
def test_broken_gzip_is_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        unpacked(payload, 100)


def test_messages_are_read_like_json() -> None:
    wish = {"id": "s", "sql": "q", "params": [1, "a", None], "options": {"from": 5, "x": {}}}
    message = {"type": "subscribe", "subscription": wish, "more": [1]}
    assert protocol.packed_message(pack(message)) == protocol.client_message(orjson.dumps(message))
    with pytest.raises(protocol.BadMessage):
        protocol.packed_message(pack({"type": "nothing"}))


class _Wire:
    def write(self, data: bytes, /) -> None: ...
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class _Flusher:
    frames = size_bytes = 0

    def add(self, outbox: Outbox) -> None: ...


@pytest.mark.parametrize("gzipped", [True, False])
def test_an_event_is_made_once_for_all_who_want_it_so(*, gzipped: bool) -> None:
    event = FeedEvent(
        Seq(7), b'"change_type":"insert","rows":[{"body":"%b"}],"seq":"7"}' % (BODY.encode())
    )
    outboxes = [Outbox(_Wire(), _Flusher(), 1 << 20) for _ in range(3)]  # type: ignore[arg-type]
    for outbox in outboxes:
        outbox.msgpack, outbox.packed = True, gzipped
    prefixes = [outbox.prefix(event_prefix("same")) for outbox in outboxes]
    for outbox, prefix in zip(outboxes, prefixes, strict=True):
        assert outbox.push(prefix, event)
    assert len(event.frames) == 1
    made = packed_tail(event)
    assert packed_tail(event) is made
    other = event_frame(packed_prefix(event_prefix("other"), gzip=gzipped), event, packed=gzipped)
    assert packed_tail(event) is made
    assert (made.deflated is not None) == gzipped
    payload = other[2 if other[1] < 126 else 4 :]
    message = msgspec.msgpack.decode(gzip.decompress(payload) if gzipped else payload)
    assert message["subscription_id"] == "other"
    assert message["rows"] == [{"body": BODY}]


def test_packed_and_plain_frames_of_one_event_are_not_mixed() -> None:
    event = FeedEvent(Seq(7), b'"body":"%b"}' % BODY.encode())
    plain = packed_prefix(event_prefix("s"), gzip=False)
    zipped = packed_prefix(event_prefix("s"), gzip=True)
    assert len({plain, zipped, event_prefix("s"), event_prefix("s") + b" "}) == 4
    assert event_frame(zipped, event, packed=True) != event_frame(plain, event, packed=False)
