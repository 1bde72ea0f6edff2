"""Followers: each follows one tenant's rows through routers and nodes, from its own cursor.

1. Begin with a snapshot, page by page; then changes.
2. A transaction's changes count when the last of them is here: until then the cursor stands before.
3. Whenever the stream ends (told, broken, or by a whim), resume at some door from the cursor.

Keeps: what was heard of a stream that was given up, and of a snapshot that was not whole, counts
for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kalamdb.errors import KalamError
from kalamdb.model.change import Op
from kalamdb.model.ids import Partition, Seq, partition_tenant
from kalamdb.model.principal import Principal, Role
from tests.sim.calls import Lost, Refused
from tests.sim.cluster.clients import Desk
from tests.sim.cluster.sockets import LiveSocket
from tests.sim.history import Began, Elements, Frame, Resumed, Subscription
from tests.sim.reference import Violation
from tests.sim.schema import key_bytes, returned

SQL = "SELECT id, numbers FROM sim.lists"
OPENING_S = 12.0
AWAY_SHARE = 0.1
OPS = {"insert": Op.INSERT, "update": Op.UPDATE, "delete": Op.DELETE}


@dataclass(slots=True)
class Following:
    """What all followers share. `may_expire(cursor)`: may a cursor have been called expired?"""

    desk: Desk
    may_expire: Callable[[Seq], bool]
    ends: Counter[str] = field(default_factory=Counter[str])
    resumed: int = 0


class _Session:
    """The client's end of one stream; messages arrive in order."""

    def __init__(self, following: Following, subscription: Subscription) -> None:
        self._following = following
        self._subscription = subscription
        self._rows: dict[bytes, Elements] = {}
        self._frames: list[Frame] = []
        self._loading = not subscription.cursor  # zero stands before everything
        self.socket: LiveSocket | None = None
        self.over = False
        self.heard = False

    def hear(self, message: dict[str, Any]) -> None:
        if self.over:
            return
        self.heard = True
        match message["type"]:
            case "subscription_ack":
                if message.get("reset") and not self._loading:
                    raise Violation("a snapshot was sent that nobody asked for")
                self._rows.clear()  # what was given of a snapshot before is void
                if not self._loading:
                    self._resume()
            case "initial_data_batch":
                self._load(message)
            case "change":
                self._change(message)
            case "position":
                self._position(Seq(int(message["seq"])))
            case "error":
                self._end(message)
            case kind:
                raise Violation(f"a live connection said {kind}: {message}")

    def _resume(self) -> None:
        cursor = self._subscription.cursor
        assert cursor is not None
        self._subscription.seen.append(Resumed(cursor))
        self._following.resumed += 1

    def _load(self, message: dict[str, Any]) -> None:
        control = message["batch_control"]
        if not self._loading:
            assert not message["rows"]
            return
        for row in message["rows"]:
            self._rows[key_bytes(int(row["id"]))] = returned(row["numbers"])
        if control["has_more"]:
            assert self.socket is not None
            self.socket.next_batch(control["last_seq_id"])
        elif "seq" in message:
            seq = Seq(int(message["seq"]))
            self._loading = False
            self._subscription.seen.append(Began(seq, seq, tuple(self._rows.items())))
            self._subscription.cursor = seq

    def _change(self, message: dict[str, Any]) -> None:
        if self._loading:
            raise Violation(f"a change before the snapshot's end: {message}")
        self._frames.append(frame_of(message))
        if message["commit"]:
            self._subscription.seen += self._frames
            self._subscription.cursor = self._frames[-1].seq
            self._frames = []

    def _position(self, seq: Seq) -> None:
        cursor = self._subscription.cursor
        if not (self._frames or self._loading):
            assert cursor is not None
            self._subscription.cursor = max(cursor, seq)

    def _end(self, message: dict[str, Any]) -> None:
        self.over = True
        code, subscription = message["code"], self._subscription
        self._following.ends[code] += 1
        if code == "CURSOR_EXPIRED":
            cursor = subscription.cursor
            if cursor is not None and not self._loading:
                if message.get("reason") == "ahead":
                    raise Violation(f"cursor {cursor} was called ahead")
                if not self._following.may_expire(cursor):
                    raise Violation(f"cursor {cursor} was called expired, no floor is above it")
            subscription.cursor = None
        elif "seq" in message and not self._loading:
            # Where it stands once all that was sent is here, which is so.
            told = Seq(int(message["seq"]))
            if subscription.cursor is not None and not self._frames:
                subscription.cursor = max(subscription.cursor, told)


def frame_of(message: dict[str, Any]) -> Frame:
    op = OPS[message["change_type"]]
    image = (message.get("rows") or message["old_values"])[0]
    after = None if op is Op.DELETE else returned(image["numbers"])
    return Frame(
        Seq(int(message["seq"])),
        Seq(int(message["prev_seq"])),
        op,
        key_bytes(int(image["id"])),
        after,
        message["commit"],
    )


async def follow(following: Following, subscription: Subscription) -> None:
    """Until the run ends."""
    desk, dice = following.desk, following.desk.dice
    tenant = partition_tenant(subscription.partition)
    assert tenant is not None
    principal = Principal.of(tenant, Role.USER)
    while True:
        door = desk.live_door()
        session = _Session(following, subscription)
        cursor = subscription.cursor

        async def open_socket(there: Any, session: _Session = session) -> LiveSocket:
            socket = session.socket = LiveSocket(there, there.live, session.hear)
            await socket.subscribe(SQL, principal, cursor)  # noqa: B023 — awaited in this turn
            return socket

        try:
            await desk.calls.call(door, open_socket, timeout_s=OPENING_S)  # type: ignore[arg-type]
        except (KalamError, Refused, Lost):
            session.over = True
        await _listen(following, session)
        session.over = True
        if session.socket is not None:
            session.socket.close()
        away_s = dice.uniform(0.0, 0.2)
        if dice.random() < AWAY_SHARE and not desk.closed:
            away_s = dice.uniform(1.0, 6.0)
        await desk.calls.pause(away_s)


async def _listen(following: Following, session: _Session) -> None:
    desk = following.desk
    until_s = desk.timeline.now_s + desk.dice.expovariate(0.25)
    while not session.over and session.socket is not None:
        if session.socket.lost:
            return
        await desk.calls.pause(0.05)
        if desk.timeline.now_s > until_s and not desk.closed:
            following.ends["whim"] += 1
            return


def subscriptions(partitions: list[Partition], each: int) -> list[Subscription]:
    return [
        Subscription(number, partition)
        for number, partition in enumerate(one for one in partitions for _ in range(each))
    ]
