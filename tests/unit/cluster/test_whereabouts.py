"""Where others are: who leads what, the address book, images on their way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.images import Copies
from cluster.leaders import Leaders
from cluster.moves import Moves, MoveSettings
from cluster.rpc.addresses import LONELY_LOOKS, AddressBook
from kalamdb.model.catalog import CatalogView, NodeRecord, NodeState, Placement
from kalamdb.model.ids import GroupId, NodeId, Slot
from kalamdb.model.slot import Move, MoveState
from kalamdb.store.catalog import FIRST_CATALOG
from tests.unit.replica.harness import TestClock

G = GroupId(3)


@dataclass
class Member:
    leads: int | None
    outside: bool = False
    silent_s: float = 0.0

    def leader(self) -> int | None:
        return self.leads

    def heard_age_s(self) -> float:
        return self.silent_s


@dataclass
class Links:
    up: set[int]
    told: list[dict[int, str]] = field(default_factory=list[dict[int, str]])

    def connected(self, node: int) -> bool:
        return node in self.up

    def set_addresses(self, addresses: Mapping[int, str]) -> None:
        self.told.append(dict(addresses))


def test_a_member_that_is_outside_knows_less_than_others() -> None:
    member, links = Member(leads=2), Links({1, 2, 3})
    leaders = Leaders({G: member}, links.connected, lambda: [1, 2, 3], TestClock(), node=1)
    assert leaders.of(G) == 2
    assert leaders.all() == {G: 2}
    member.outside = True
    assert leaders.all() == {}
    assert {leaders.of(G) for _ in range(4)} == {2, 3}  # anybody else may know
    leaders.told(G, 3)
    assert leaders.of(G) == 3
    member.outside, member.leads = False, None
    leaders.told(G, None)
    assert leaders.of(G) is None  # its own members elect one: it is waited for
    member.leads, member.silent_s = 2, 3.0
    leaders.told(G, 3)
    assert leaders.of(G) == 3  # it may have been removed unheard


def catalog(*nodes: NodeRecord) -> CatalogView:
    view = FIRST_CATALOG
    placed = Placement("c", 4, (NodeId(1),))
    return replace(view, placement=placed, nodes={node.id: node for node in nodes})


def node(number: int, rpc: str, state: NodeState = NodeState.ACTIVE) -> NodeRecord:
    return NodeRecord(NodeId(number), "", rpc, "", state, 0)


def test_the_address_book_is_that_of_meta_once_it_has_one() -> None:
    links = Links({1, 3})
    book = AddressBook(links, {1: "one:1", 2: "two:1"})
    book.follow(FIRST_CATALOG)
    assert not links.told
    assert book.connected() == [1]
    now = catalog(node(1, "one:1"), node(2, "gone:1", NodeState.REMOVED), node(3, "three:1"))
    book.follow(now)
    book.follow(now)
    assert links.told == [{1: "one:1", 3: "three:1"}]
    assert book.connected() == [1, 3]


def test_nodes_that_all_have_moved_are_looked_for_where_the_settings_say() -> None:
    links = Links(set())
    book = AddressBook(links, {1: "new-one:1", 2: "new-two:1"})
    now = catalog(node(1, "one:1"), node(2, "two:1"), node(3, "three:1"))
    for _ in range(LONELY_LOOKS):
        book.follow(now)
    old = {1: "one:1", 2: "two:1", 3: "three:1"}
    new = {1: "new-one:1", 2: "new-two:1", 3: "three:1"}
    assert links.told == [old, new]
    for _ in range(2 * LONELY_LOOKS):
        book.follow(now)
    assert links.told == [old, new, old, new]
    links.up.add(2)
    book.follow(now)
    book.follow(now)
    assert links.told[-1] == old  # links that are there stay


def test_an_image_tells_how_far_it_is() -> None:
    clock = TestClock()
    copies = Copies(4, clock)
    copies.begun(G, 1, 100)
    copies.came(G, [(b"key", b"x" * 47)])
    (move,) = copies.progress()
    assert (move.state, move.source, move.target, move.group) == ("image", 1, 4, G)
    assert (move.keys_done, move.bytes_done, move.bytes_total) == (1, 50, 100)
    copies.came(G, [(b"key", b"x" * 57)])
    (move,) = copies.progress()
    assert (move.bytes_done, move.bytes_total) == (110, 0)  # more than was told: not known
    copies.ended(G)
    copies.ended(G)
    assert not copies.progress()


def test_moves_that_nobody_drives_wait() -> None:
    leads = [True]
    moves = Moves(None, lambda: leads[0], TestClock(), MoveSettings())  # type: ignore[arg-type]
    known = [Move(Slot(7), GroupId(1), GroupId(2), 5, MoveState.MOVING, 1000)]
    (told,) = moves.progress(known)
    assert (told.kind, told.slot, told.source, told.target) == ("slot", 7, 1, 2)
    assert (told.state, told.started_ms) == ("waiting", 1000)
    leads[0] = False
    assert moves.progress(known) == []
