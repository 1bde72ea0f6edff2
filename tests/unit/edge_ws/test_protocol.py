"""Client messages are read as the wire reference has them, and what is wrong is told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from kalamdb.edge.ws import protocol
from kalamdb.errors import Unsupported
from kalamdb.feed.loading import Newest, Page, Whole
from kalamdb.feed.subscription import FromNow, Resume, Start
from kalamdb.model.ids import Seq
from kalamdb.model.table import Unique
from tests.unit.feed.group import NOTES, plan


def read(message: object) -> protocol.ClientMessage:
    return protocol.client_message(orjson.dumps(message))


def options(**given: object) -> protocol.Options | None:
    message = read({"type": "subscribe", "subscription": {"id": "s", "sql": "", "options": given}})
    assert isinstance(message, protocol.Subscribe)
    return message.subscription.options


def test_authenticate_with_and_without_protocol() -> None:
    assert read({"type": "authenticate", "method": "jwt", "token": "T"}) == (
        protocol.Authenticate("jwt", "T", None)
    )
    spoken = {"serialization": "msgpack", "compression": "none", "later": 1}
    message = read({"type": "authenticate", "token": "T", "protocol": spoken})
    assert message == protocol.Authenticate("jwt", "T", protocol.WishedProtocol("msgpack", "none"))


def test_fields_nobody_knows_are_left_alone() -> None:
    assert read({"type": "ping", "x": {"y": [1]}}) == protocol.Ping()


@pytest.mark.parametrize("seq", [202, "202"])
def test_seqs_are_numbers_or_strings(seq: object) -> None:
    message = read({"type": "next_batch", "subscription_id": "s", "last_seq_id": seq})
    assert isinstance(message, protocol.NextBatch)
    assert protocol.cursor(message.last_seq_id, "last_seq_id") == 202
    for name in ("from", "from_seq_id"):
        assert protocol.start(options(**{name: seq}), 10, 100) == Resume(Seq(202), 10, False)


@pytest.mark.parametrize("seq", [-1, "-1", "1.5", "", "x", 1 << 63, "9" * 20, "٣"])
def test_seqs_that_are_none(seq: int | str) -> None:
    with pytest.raises(protocol.BadMessage):
        protocol.cursor(seq, "from")


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, Whole(1000)),
        ({"batch_size": 1}, Whole(1)),
        ({"last_rows": 0}, Newest(0)),
        ({"last_rows": 5, "batch_size": 5}, Newest(5)),
        ({"last_rows": 5, "from": "7", "on_expired": "snapshot"}, Resume(Seq(7), 1000, True)),
        ({"from": None, "from_seq_id": "7"}, Resume(Seq(7), 1000, False)),
    ],
)
def test_where_a_subscription_begins(given: dict[str, Any], start: Start) -> None:
    assert protocol.start(options(**given), 1000, 10_000) == start


def test_without_options_there_is_no_snapshot() -> None:
    assert protocol.start(None, 1000, 10_000) == FromNow()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"batch_size": 0}, Unsupported),
        ({"batch_size": 10_001}, Unsupported),
        ({"last_rows": 1001}, Unsupported),
        ({"last_rows": -1}, protocol.BadMessage),
        ({"on_expired": "panic"}, protocol.BadMessage),
        ({"from": "x"}, protocol.BadMessage),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        protocol.start(options(**given), 1000, 10_000)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{'type':'ping'}", b'{"type":"ping"} x', b"\xff", b'{"a":"\xff"}']
)
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(protocol.NotJson):
        protocol.client_message(text)


@pytest.mark.parametrize(
    "message",
    [
        [],
        1,
        {},
        {"type": "shout"},
        {"type": 1},
        {"type": "subscribe"},
        {"type": "subscribe", "subscription": {"id": 1, "sql": ""}},
        {"type": "subscribe", "subscription": {"id": "s", "sql": "", "options": {"from": True}}},
        {"type": "subscribe", "subscription": {"id": "s", "sql": "", "options": {"from": 1.5}}},
        {"type": "next_batch"},
    ],
)
def test_what_is_no_message(message: object) -> None:
    with pytest.raises(protocol.BadMessage):
        read(message)


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises((protocol.NotJson, protocol.BadMessage)):
        protocol.client_message(b'{"type":"ping","x":' + b"[" * 200_000)


def test_ack_and_batch() -> None:
    page = Page(0, True, Seq(202), None)
    table = replace(NOTES, uniques=(Unique(1, (3,), "u"),))
    ack = orjson.loads(
        protocol.subscription_ack("m", plan(table, columns=["id", "body"]), page, reset=False)
    )
    control = {"batch_num": 0, "has_more": True, "status": "loading", "last_seq_id": "202"}
    assert ack == {
        "type": "subscription_ack",
        "subscription_id": "m",
        "total_rows": 0,
        "batch_control": control,
        "schema": [
            {"name": "id", "data_type": "BigInt", "index": 0, "flags": ["pk", "nn", "uq"]},
            {"name": "body", "data_type": "Text", "index": 1, "flags": ["uq"]},
        ],
    }
    batch = orjson.loads(protocol.initial_data_batch("m", (b'{"id":"1"}', b'{"id":"2"}'), page))
    assert batch == {
        "type": "initial_data_batch",
        "subscription_id": "m",
        "rows": [{"id": "1"}, {"id": "2"}],
        "batch_control": control,
    }
    last = orjson.loads(protocol.initial_data_batch("m", (), Page(1, False, None, Seq(9))))
    assert last["batch_control"]["status"] == "ready"
    assert last["batch_control"]["last_seq_id"] is None
    assert last["seq"] == "9"


def test_error_names_where_streams_stand() -> None:
    assert orjson.loads(
        protocol.error("m", "X", "text", seq=Seq(5), reason="r", cursors={"m": Seq(5)})
    ) == {
        "type": "error",
        "subscription_id": "m",
        "code": "X",
        "message": "text",
        "reason": "r",
        "seq": "5",
        "cursors": {"m": "5"},
    }
