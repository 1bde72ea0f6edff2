"""Who belongs to a group: voters and learners as one entry of its log, and the steps between them.

Main flow: `changed` makes the next roster from the one in force; its `encode_roster` is appended as
an entry; `MemberLog` knows which roster is in force at any index a log still holds.

Keeps (docs/decisions/0018-membership-in-the-log.md has the reasons):
- A step moves one node, so the majorities of two rosters in a row always meet.
- The last roster of a log is in force from its append on, until it is cut off.
- A voter is a node *and* its life: a node that lost its disk is somebody else.
- While the roster as of the log's start is not known, this node does not campaign.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import assert_never

import msgspec
from msgspec import Struct

from kalamdb.errors import InvalidInput, LimitReached

ROSTER = b"\x11"  # our command type byte: what follows is a roster
VOTERS_MAX = 9
LEARNERS_MAX = 256
_VERSION = 1
_LARGEST = 2**62


@dataclass(frozen=True, slots=True)
class AddLearner:
    """A node that is no member begins to receive the log."""

    node: int


@dataclass(frozen=True, slots=True)
class Promote:
    """A learner that has caught up becomes a voter."""

    node: int


@dataclass(frozen=True, slots=True)
class Demote:
    """A voter becomes a learner."""

    node: int


@dataclass(frozen=True, slots=True)
class Remove:
    """A learner no longer receives the log."""

    node: int


MemberChange = AddLearner | Promote | Demote | Remove


@dataclass(frozen=True, slots=True)
class Roster:
    """Node ids, each tuple sorted. `lives`: (node, life) of voters whose life is not 0."""

    voters: tuple[int, ...]
    learners: tuple[int, ...] = ()
    lives: tuple[tuple[int, int], ...] = ()

    @property
    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted(self.voters + self.learners))

    def life(self, voter: int) -> int:
        return dict(self.lives).get(voter, 0) if self.lives else 0

    def counts(self, node: int, life: int) -> bool:
        """`node` in that life is a voter."""
        return node in self.voters and self.life(node) == life

    def well_formed(self) -> bool:
        nodes = self.voters + self.learners
        return (
            1 <= len(self.voters) <= VOTERS_MAX
            and len(self.learners) <= LEARNERS_MAX
            and all(0 <= node <= _LARGEST for node in nodes)
            and len(set(nodes)) == len(nodes)
            and tuple(sorted(self.voters)) == self.voters
            and tuple(sorted(self.learners)) == self.learners
            and tuple(sorted(dict(self.lives).items())) == self.lives
            and all(node in self.voters and 0 < life <= _LARGEST for node, life in self.lives)
        )


NOBODY = Roster(())


@dataclass(frozen=True, slots=True)
class Members:
    """The roster in force and the index of the entry that says so (0: the group began with it)."""

    voters: tuple[int, ...]
    learners: tuple[int, ...]
    index: int
    committed: bool


@dataclass(frozen=True, slots=True)
class MemberProgress:
    """How far the leader knows one other member to be."""

    node: int
    voter: bool
    counts: bool  # False for learners, and for a voter that lost its disk: it must be replaced
    match_index: int
    behind_entries: int
    stage: str  # probe | replicate | image
    heard_age_s: float  # since its last answer
    caught_up: bool  # a learner that is may be promoted


def changed(roster: Roster, change: MemberChange, life: int = 0) -> Roster:
    """The roster after `change`; `life` is that of the promoted.

    Raises: InvalidInput when the change does not fit, LimitReached.
    """
    node = change.node
    voters, learners, lives = set(roster.voters), set(roster.learners), dict(roster.lives)
    match change:
        case AddLearner():
            _expect(node not in voters | learners, f"node {node} is a member already")
            _expect(0 <= node <= _LARGEST, f"{node} is no node id")
            if len(learners) >= LEARNERS_MAX:
                raise LimitReached("learners of a group", f"{LEARNERS_MAX}")
            learners.add(node)
        case Promote():
            _expect(node not in voters, f"node {node} is a voter already")
            _expect(node in learners, f"node {node} is no learner; add it as one first")
            if len(voters) >= VOTERS_MAX:
                raise LimitReached("voters of a group", f"{VOTERS_MAX}")
            learners.remove(node)
            voters.add(node)
            if life:
                lives[node] = life
        case Demote():
            _expect(node in voters, f"node {node} is no voter")
            _expect(len(voters) > 1, f"node {node} is the last voter; promote another one first")
            voters.remove(node)
            lives.pop(node, None)
            learners.add(node)
        case Remove():
            _expect(node not in voters, f"node {node} is a voter; demote it first")
            _expect(node in learners, f"node {node} is no member")
            learners.remove(node)
        case _:
            assert_never(change)
    made = Roster(tuple(sorted(voters)), tuple(sorted(learners)), tuple(sorted(lives.items())))
    assert made.well_formed()
    return made


def _expect(holds: bool, complaint: str) -> None:
    if not holds:
        raise InvalidInput(complaint)


# ---- bytes ---------------------------------------------------------------------------------------


class _RosterBytes(Struct, array_like=True, frozen=True):
    version: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    lives: tuple[tuple[int, int], ...]


class _BaseBytes(Struct, array_like=True, frozen=True):
    version: int
    life: int
    known: bool
    index: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    lives: tuple[tuple[int, int], ...]


_encode = msgspec.msgpack.Encoder().encode
_roster_decoder = msgspec.msgpack.Decoder(_RosterBytes)
_base_decoder = msgspec.msgpack.Decoder(_BaseBytes)


def encode_roster(roster: Roster) -> bytes:
    """The command of a log entry."""
    assert roster.well_formed()
    return ROSTER + _encode(_RosterBytes(_VERSION, roster.voters, roster.learners, roster.lives))


def decode_roster(command: bytes) -> Roster | None:
    """None: these are not the bytes of a roster this program knows."""
    if command[:1] != ROSTER:
        return None
    try:
        said = _roster_decoder.decode(memoryview(command)[1:])
    except msgspec.DecodeError:
        return None
    roster = Roster(said.voters, said.learners, said.lives)
    return roster if said.version == _VERSION and roster.well_formed() else None


@dataclass(frozen=True, slots=True)
class Base:
    """What the log starts with: the roster as of its base, and this node's own life in the group.

    `known` False: the roster may be older than the base; the leader has to be asked.
    """

    roster: Roster
    index: int = 0  # of the entry that said so
    known: bool = True
    life: int = 0


def encode_base(base: Base) -> bytes:
    roster = base.roster
    fields = (base.life, base.known, base.index, roster.voters, roster.learners, roster.lives)
    return _encode(_BaseBytes(_VERSION, *fields))


def decode_base(data: bytes) -> Base | None:
    """None: not the bytes of a base this program knows."""
    try:
        said = _base_decoder.decode(data)
    except msgspec.DecodeError:
        return None
    if said.version != _VERSION:
        return None
    roster = Roster(said.voters, said.learners, said.lives)
    return Base(roster, said.index, said.known, said.life)


# ---- which roster is in force --------------------------------------------------------------------


class MemberLog:
    """The rosters of one log, as of its base and after it; `node` is this node.

    `index`, `roster`, `known`, `counts`, `sole` are those of the roster in force.
    """

    def __init__(self, node: int, base: Base) -> None:
        self._node = node
        self._said: list[tuple[int, Roster]] = [(base.index, base.roster)]
        self._base_known = base.known
        self.life = base.life
        self._refresh()

    @property
    def base(self) -> Base:
        index, roster = self._said[0]
        return Base(roster, index, self._base_known, self.life)

    @property
    def base_known(self) -> bool:
        return self._base_known

    def at(self, index: int) -> tuple[int, Roster] | None:
        """What is in force after the entry at `index`, which may lie before the base when the last
        one said before it does, too; None: not known.
        """
        at = bisect_right(self._said, index, key=_index_of) - 1
        return None if at < 0 or (at == 0 and not self._base_known) else self._said[at]

    def since(self, index: int) -> list[Roster]:
        """What is in force after the entry at `index` or after a later one, as far as known."""
        at = max(bisect_right(self._said, index, key=_index_of) - 1, 0)
        if at == 0 and not self._base_known:
            at = 1
        return [roster for _, roster in self._said[at:]]

    # The journal tells.

    def added(self, index: int, roster: Roster) -> None:
        assert index > self._said[-1][0]
        self._said.append((index, roster))
        self._refresh()

    def cut_from(self, index: int) -> bool:
        """Entries from `index` on are gone. True: another roster is in force."""
        before = len(self._said)
        while len(self._said) > 1 and self._said[-1][0] >= index:
            self._said.pop()
        self._refresh()
        return len(self._said) < before

    def start_after(self, index: int) -> bool:
        """The log now starts after `index`, which it held. True: `base` has changed."""
        at = bisect_right(self._said, index, key=_index_of) - 1
        if at <= 0:
            return False
        del self._said[:at]
        self._base_known = True
        self._refresh()
        return True

    def reset(self, index: int) -> None:
        """The log starts anew after `index`, which it did not hold: the roster is a guess."""
        at = max(bisect_right(self._said, index, key=_index_of) - 1, 0)
        self._said = [self._said[at]]
        self._base_known = False
        self._refresh()

    def tell(self, index: int, roster: Roster) -> None:
        """The roster as of the base, said at `index`, from one who knows."""
        assert not self._base_known
        self._said[0] = (index, roster)
        self._base_known = True
        self._refresh()

    def _refresh(self) -> None:
        self.index, self.roster = self._said[-1]
        self.known = self._base_known or len(self._said) > 1
        self.counts = self.roster.counts(self._node, self.life)
        self.sole = self.counts and len(self.roster.voters) == 1


def _index_of(said: tuple[int, Roster]) -> int:
    return said[0]


def founding(node: int, voters: tuple[int, ...], *, joining: bool, life: int) -> Base:
    """What a member begins with that the log knows nothing of."""
    if joining or node not in voters:
        assert life > 0
        return Base(NOBODY, known=False, life=life)
    made = replace(NOBODY, voters=tuple(sorted(voters)))
    assert made.well_formed()
    return Base(made)
