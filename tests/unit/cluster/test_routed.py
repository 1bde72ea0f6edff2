"""Statements to the leaders: hops, hints, what is asked again and what is not, pieces, talks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import orjson
import pytest
import pytest_asyncio

from cluster.leaders import Leaders
from cluster.routed import RoutedSession, whole
from cluster.sql_host import SqlHost
from cluster.talks import RoutedTalks, TalkHost
from kalamdb.errors import (
    Conflict,
    Indeterminate,
    InvalidCredentials,
    KalamError,
    NotLeader,
    ReplicaBehind,
    Unavailable,
    UnknownTable,
)
from kalamdb.model.catalog import CatalogView, Placement, User
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Seq, shared_partition, slot_of
from kalamdb.model.principal import Principal, Role
from kalamdb.session.reply import Reply
from kalamdb.session.run import Affected, Conversation, Done, Piece, SqlRequest
from kalamdb.session.transactions import named_of
from tests.loopback import Loopback
from tests.unit.session.catalogs import CATALOG, SETTINGS
from tests.waiting import wait_until

ALICE = Principal.of("alice", Role.USER, epoch=3)
PLACED = replace(
    CATALOG,
    placement=Placement("test", 64, (1, 2)),
    users={"alice": User("alice", Role.USER, "", None, 3, 0, 0)},
)
assert PLACED.placement is not None
HERS = PLACED.placement.group_of(slot_of(ALICE.partition))
ROUTER = -1
INSERT = SqlRequest("INSERT INTO app.mine VALUES (1)")
SELECT = SqlRequest("SELECT * FROM app.mine")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    async def pause(self, pause_s: float) -> None:
        self.now_s += pause_s


@dataclass(slots=True)
class FakeSession:
    """Says which node it is, after raising what it was given."""

    node: int
    raises: list[KalamError] = field(default_factory=list[KalamError])
    asked: list[object] = field(default_factory=list[object])
    hung_up: int = 0
    open: bool = False

    def _turn(self, request: object) -> bytes:
        self.asked.append(request)
        if self.raises:
            raise self.raises.pop(0)
        return b"node %d" % self.node

    async def execute(self, principal: Principal, request: SqlRequest) -> Reply:
        said = self._turn(request)
        return Pieces(said) if request.streams else said

    async def piece(self, principal: Principal, request: SqlRequest, piece: Piece) -> Done:
        said = self._turn(piece)
        return Done([b'"%b"' % said], [Affected("Inserted", Outcome(1, Seq(self.node)))])

    async def converse(self, talk: Conversation, request: SqlRequest) -> bytes:
        self._turn(request)
        talk.transaction = object() if "BEGIN" in request.sql else None  # type: ignore[assignment]
        return b"node %d says %b" % (self.node, b"x" * 600_000)

    def hang_up(self, talk: Conversation) -> None:
        self.hung_up += talk.transaction is not None
        talk.transaction = None


class Pieces:
    def __init__(self, said: bytes) -> None:
        self._said = said

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for byte in self._said:
            yield bytes([byte])

    async def aclose(self) -> None:
        pass


class FixedCatalog:
    """One that may learn something when it is refreshed."""

    def __init__(self, catalog: CatalogView = PLACED) -> None:
        self.catalog = catalog
        self.newer: CatalogView | None = None
        self.refreshed = 0

    async def refresh_catalog(self) -> None:
        self.refreshed += 1
        self.catalog = self.newer or self.catalog

    def check_catalog(self) -> None:
        pass

    async def catalog_reaches(self, version: int) -> None:
        if self.catalog.version < version:
            raise Unavailable("the catalog of this node is behind")


class World:
    """Two nodes; the edge is at node 1, or at a router."""

    def __init__(self, net: Loopback, *, router: bool = False) -> None:
        self.net, self.clock = net, Clock()
        self.sessions = {node: FakeSession(node) for node in (1, 2)}
        self.catalogs = {node: FixedCatalog() for node in (0, 1, 2)}
        for node in (1, 2):
            for methods in (net[node].asks, net[node].streams):
                methods.clear()  # of another world in the same test
            host = SqlHost(self.sessions[node], self.catalogs[node])
            host.serve(self.net[node])
            TalkHost(self.sessions[node], host.admit).serve(self.net[node])
        at = None if router else 1
        self.rpc = self.net[ROUTER if router else 1]
        self.leaders = Leaders(
            {}, self.rpc.connected, lambda: [1, 2], self.clock, node=at, pause=self.clock.pause
        )
        local = None if router else self.sessions[1]
        self.catalog = self.catalogs[0 if router else 1]
        self.routed = RoutedSession(self.catalog, self.leaders, self.rpc, self.clock, local=local)
        self.talks = RoutedTalks(self.routed, self.rpc, local, at)

    def led_by(self, node: int | None, group: GroupId = HERS) -> World:
        self.leaders.told(group, node)
        return self

    async def ask(self, request: SqlRequest, who: Principal = ALICE) -> bytes:
        return await whole(await self.routed.execute(who, request))


@pytest_asyncio.fixture
async def net() -> AsyncIterator[Loopback]:
    async with Loopback(1, 2, ROUTER) as made:
        yield made


def at_router(net: Loopback) -> World:
    return World(net, router=True)


def at_node(net: Loopback) -> World:
    return World(net)


async def test_the_leader_answers_here_or_by_one_hop(net: Loopback) -> None:
    assert await at_node(net).led_by(1).ask(INSERT) == b"node 1"
    assert await at_node(net).led_by(2).ask(INSERT) == b"node 2"
    assert await at_router(net).led_by(2).ask(INSERT) == b"node 2"


async def test_a_stale_read_is_answered_near_unless_that_is_behind(net: Loopback) -> None:
    asked = replace(SELECT, consistency="stale")
    world = at_node(net).led_by(2)
    assert await world.ask(asked) == b"node 1"
    assert await world.ask(SELECT) == b"node 2"
    assert await world.ask(replace(INSERT, consistency="stale")) == b"node 2"
    for refusal in (ReplicaBehind("7", 5.0), NotLeader(HERS, None)):
        world.sessions[1].raises = [refusal]
        assert await world.ask(asked) == b"node 2"
    assert (await at_router(net).led_by(2).ask(asked)) in (b"node 1", b"node 2")


async def test_staleness_goes_with_the_pieces(net: Loopback) -> None:
    world = at_node(net).led_by(2)
    text = "SELECT * FROM app.mine; CREATE NAMESPACE other"
    world.leaders.told(GroupId(0), 1)
    await world.ask(SqlRequest(text, consistency="stale"))
    assert [one.stale for one in world.sessions[2].asked if isinstance(one, Piece)] == [True]


async def test_pieces_go_through(net: Loopback) -> None:
    asked = replace(SELECT, streams=True)
    assert await at_router(net).led_by(2).ask(asked) == b"node 2"


async def test_a_refusal_names_who_leads(net: Loopback) -> None:
    world = at_router(net).led_by(1)
    world.sessions[1].raises = [NotLeader(HERS, 2)]
    assert await world.ask(INSERT) == b"node 2"
    assert await world.ask(INSERT) == b"node 2"
    assert len(world.sessions[1].asked) == 1  # it is known from then on


async def test_what_surely_was_not_done_is_asked_again_for_a_while(net: Loopback) -> None:
    world = at_router(net).led_by(1)
    world.sessions[1].raises = [Unavailable("an election")] * 3
    world.leaders.refused = lambda group, asked, error: None  # type: ignore[method-assign]
    assert await world.ask(INSERT) == b"node 1"
    world = at_router(net)  # nobody is known to lead: any node may know
    for node in (1, 2):
        world.sessions[node].raises = [NotLeader(HERS, None)] * 2000
    with pytest.raises(NotLeader):
        await world.ask(INSERT)
    assert world.sessions[1].asked
    assert world.sessions[2].asked


async def test_an_unknown_outcome_is_said_unless_it_may_be_done_twice(net: Loopback) -> None:
    for request, again in (
        (INSERT, False),
        (SELECT, True),
        (replace(INSERT, request_id="r1"), True),
    ):
        world = at_router(net).led_by(1)
        world.leaders.refused = lambda group, asked, error: None  # type: ignore[method-assign]
        world.sessions[1].raises = [Indeterminate("the link broke")]
        if again:
            assert await world.ask(request) == b"node 1"
        else:
            with pytest.raises(Indeterminate):
                await world.ask(request)
            assert len(world.sessions[1].asked) == 1


async def test_other_refusals_are_the_clients(net: Loopback) -> None:
    world = at_router(net).led_by(1)
    world.sessions[1].raises = [Conflict("somebody was faster")]
    with pytest.raises(Conflict):
        await world.ask(INSERT)
    assert len(world.sessions[1].asked) == 1


async def test_a_batch_of_one_place_goes_whole(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    text = "INSERT INTO app.mine VALUES (1); SELECT * FROM app.mine"
    assert await world.ask(SqlRequest(text)) == b"node 2"
    late = Unavailable("the leader changed")
    late.__dict__["statement"] = 2
    world.sessions[2].raises = [late]
    with pytest.raises(Unavailable):
        await world.ask(SqlRequest(text))  # its first statement is done


async def test_a_batch_of_several_places_goes_in_pieces(net: Loopback) -> None:
    world = at_node(net)
    world.led_by(1, _group_of_settings()).led_by(2)
    text = "INSERT INTO app.mine VALUES (1); SELECT 1; INSERT INTO app.settings VALUES (1)"
    answer = orjson.loads(await world.ask(SqlRequest(text)))
    assert answer["results"][-1]["message"] == "Inserted 2 row(s)"
    assert [piece.start for piece in world.sessions[2].asked] == [0]  # type: ignore[attr-defined]
    world.sessions[1].raises = [UnknownTable("app.gone")]
    with pytest.raises(UnknownTable) as refused:
        await world.ask(SqlRequest(text))
    assert refused.value.__dict__["statement"] == 3


def _group_of_settings() -> GroupId:
    assert PLACED.placement is not None
    return PLACED.placement.group_of(slot_of(shared_partition(SETTINGS.id)))


async def test_what_the_catalog_lacks_is_looked_for_once_more(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    known = world.catalog.catalog
    world.catalog.catalog = replace(known, version=6, tables={}, views={})
    with pytest.raises(UnknownTable):
        await world.ask(INSERT)
    assert world.catalog.refreshed == 1
    world.catalog.newer = known
    assert await world.ask(INSERT) == b"node 2"


async def test_the_leader_waits_for_the_senders_catalog(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    world.catalog.catalog = replace(PLACED, version=8)
    with pytest.raises(Unavailable):
        await world.ask(INSERT)
    assert world.sessions[2].asked == []


async def test_the_leader_checks_who_asks(net: Loopback) -> None:
    for who in (replace(ALICE, epoch=2), Principal.of("alice", Role.DBA, epoch=3)):
        world = at_router(net).led_by(2)
        with pytest.raises(InvalidCredentials):
            await world.ask(INSERT, who)
        assert world.sessions[2].asked == []


async def test_a_transaction_is_where_it_began(net: Loopback) -> None:
    world = at_router(net).led_by(1)
    begun = named_of(2, "01a20e35-520b-74be-b203-198e48e4ffff")
    assert await world.ask(SqlRequest("COMMIT", transaction_id=begun)) == b"node 2"
    assert await world.ask(SqlRequest("BEGIN", transaction_id="new")) == b"node 1"
    world.net.cut(ROUTER, 2)
    # Its node is gone: the tenant's leader knows whether it was committed.
    assert await world.ask(SqlRequest("COMMIT", transaction_id=begun)) == b"node 1"


async def test_numbers_beyond_64_bits_travel(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    request = replace(INSERT, params=[1 << 100, "x"])
    await world.ask(request)
    assert world.sessions[2].asked == [request]


async def test_a_conversation_follows_its_transaction(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    talk = Conversation(ALICE)
    assert await world.talks.converse(talk, SELECT) == b"node 2"
    answer = await world.talks.converse(talk, SqlRequest("BEGIN"))
    assert answer == b"node 2 says " + b"x" * 600_000
    world.led_by(1)
    world.sessions[2].raises = [Conflict("not this row")]
    assert talk.elsewhere is not None
    with pytest.raises(Conflict):
        await world.talks.converse(talk, INSERT)
    await world.talks.converse(talk, SqlRequest("COMMIT"))
    assert talk.elsewhere is None
    assert len(world.sessions[1].asked) == 0


async def test_hanging_up_rolls_back_there(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    talk = Conversation(ALICE)
    await world.talks.converse(talk, SqlRequest("BEGIN"))
    world.talks.hang_up(talk)
    await wait_until(lambda: world.sessions[2].hung_up == 1, what="the rollback there")


async def test_a_lost_node_leaves_the_outcome_unknown(net: Loopback) -> None:
    world = at_router(net).led_by(2)
    talk = Conversation(ALICE)
    await world.talks.converse(talk, SqlRequest("BEGIN"))
    world.net.cut(ROUTER, 2)
    with pytest.raises((Unavailable, Indeterminate)):
        await world.talks.converse(talk, SqlRequest("COMMIT"))
    assert talk.elsewhere is None
    await wait_until(lambda: world.sessions[2].hung_up == 1, what="the rollback there")
