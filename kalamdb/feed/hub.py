"""Fan-out of one group's changes to the subscriptions that watch them; no I/O, no await.

1. A subscription *enters* when it begins, so that it hears when its table or the leadership goes.
2. Having delivered everything up to the group's position it *joins*, in the same synchronous step.
3. `publish` runs in apply, right after the batch is written: subscriptions of the same shape on the
   same chain share a `Feed`, which judges, serialises and hands out each change once.
4. An outlet that has no room refuses an event; its subscription leaves the feed there, with its
   position, and catches up from the change log. It is never skipped.

Feeds whose filter holds `column = value` are found by the values of a change's two images; only
feeds without such a condition look at every change of their chain (`feed.chain`).

A *watcher* gets no changes: it is told that there were some, after the whole batch is written, in
chains or in tables it names. Live queries that are evaluated anew are watchers.

Invariants: a member of a feed has been given everything of its chain up to the chain's position;
the rows of one transaction end with exactly one `commit` frame per feed. A chain nobody watches
costs one look-up. A position is the seq of a change of the member's own chain: the group's would
tell a client when others write.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from kalamdb.errors import KalamError
from kalamdb.feed.chain import ChainFeeds
from kalamdb.feed.events import FeedEvent, Renderer
from kalamdb.feed.predicate import ChangeKind, completed, judge
from kalamdb.model import keys
from kalamdb.model.change import Change, ChangeBatch
from kalamdb.model.ids import Partition, Seq, Slot, TableId, slot_of
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import LivePlan

# What the user's own WHERE may raise over a row. It ends their subscriptions; it must not end
# apply.
FILTER_FAULTS = (KalamError, ArithmeticError, LookupError, TypeError, ValueError)
_TABLE_BYTES = 4  # a chain begins with its table


class EndReason(Enum):
    """Why a stream ended although nobody asked; the value is the error code on the wire."""

    TABLE_DROPPED = "TABLE_DROPPED"
    SCHEMA_CHANGED = "SCHEMA_CHANGED"
    LEADERSHIP_LOST = "LEADERSHIP_LOST"
    SLOT_MOVED = "SLOT_MOVED"
    FILTER_FAILED = "SUBSCRIPTION_FAILED"
    BROKEN = "INTERNAL_ERROR"


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The end of one stream. `cursor` is where it stands: what it was given last.

    A Seq of its chain, or the text of a result's cursor (`feed.cursor`).
    """

    reason: EndReason
    detail: str
    cursor: Seq | str


class Push(Protocol):
    """Takes an event for the subscription with this prefix; False: no room, nothing was taken."""

    def __call__(self, prefix: bytes, event: FeedEvent, /) -> bool: ...


class Member(Protocol):
    """A subscription, as the hub sees it. `position`: at least this much of its chain it has."""

    plan: LivePlan
    chain: bytes
    prefix: bytes
    push: Push
    position: Seq

    def fall_behind(self) -> None:
        """It has left its feed at `position` and must catch up from the change log."""
        ...

    def end(self, end: StreamEnd) -> None: ...


class Watcher(Protocol):
    """Who wants to know that something changed."""

    @property
    def tables(self) -> Sequence[TableDef]:
        """The definitions it rests on."""
        ...

    def touched(self) -> None:
        """Something changed in what it watches; the batch is written. Must not raise or wait."""
        ...

    def end_watch(self, reason: EndReason, detail: str) -> None:
        """It is watched for no longer, in any hub it named to this one."""
        ...


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """`events` serialised, `deliveries` handed to members, `fallen` refused for want of room."""

    subscriptions: int
    feeds: int
    events: int
    deliveries: int
    fallen: int


class Feed:
    """The members of one shape on one chain. `event_seq`: the last change they were handed."""

    __slots__ = ("_held", "_hub", "_render", "_where", "event_seq", "members", "plan")

    def __init__(self, hub: Hub, plan: LivePlan) -> None:
        self.plan = plan
        self.event_seq = Seq(0)
        self.members: dict[Member, tuple[Push, bytes]] = {}
        self._hub = hub
        self._where = plan.where
        self._render = Renderer(plan)
        # An event waits here until it is known whether its transaction has another one for this
        # feed.
        self._held: tuple[ChangeKind, Change] | None = None

    def take(self, change: Change) -> None:
        """Judge a change; what was held before it goes out as not the last of its transaction."""
        try:
            kind = judge(self._where, completed(change, self.plan.table))
            if kind is not None:
                self.release(commit=False)
                self._held = (kind, change)
        except FILTER_FAULTS as fault:
            self._fail(change, fault)

    def release(self, *, commit: bool) -> None:
        """Hand out what is held."""
        held, self._held = self._held, None
        if held is None or not self.members:
            return
        kind, change = held
        event = self._render.event(kind, change, commit=commit)
        self.event_seq = change.seq
        refused = [
            member for member, (push, prefix) in self.members.items() if not push(prefix, event)
        ]
        hub = self._hub
        hub.events += 1
        hub.deliveries += len(self.members) - len(refused)
        for member in refused:
            hub.fallen += 1
            hub.expel(member, change.prev_seq)
            member.fall_behind()

    def _fail(self, change: Change, fault: Exception) -> None:
        self.release(commit=True)
        for member in list(self.members):
            self._hub.expel(member, change.prev_seq)
            self._hub.leave(member)
            member.end(StreamEnd(EndReason.FILTER_FAILED, str(fault), member.position))


def reads_alike(old: TableDef, new: TableDef) -> bool:
    """Do two versions of a table show the same rows to the same readers?"""
    return (old.columns, old.primary_key, old.full_name, old.options) == (
        new.columns,
        new.primary_key,
        new.full_name,
        new.options,
    )


class Hub:
    """The `ChangeSink` of one group on one node."""

    def __init__(self) -> None:
        self.seq_last = Seq(0)
        self.events = 0
        self.deliveries = 0
        self.fallen = 0
        self._joined_upto = Seq(0)
        self._chains: dict[bytes, ChainFeeds[Feed]] = {}
        self._members: dict[Member, Feed | None] = {}
        self._watched: dict[bytes, dict[Watcher, None]] = {}  # by chain, or by a chain's table part
        self._watchers: dict[Watcher, tuple[bytes, ...]] = {}

    # ---- the machine's side ---------------------------------------------------------------------

    def watches(self, chain: bytes) -> bool:
        if chain in self._chains:
            return True
        watched = self._watched
        return bool(watched) and (chain in watched or chain[:_TABLE_BYTES] in watched)

    def publish(self, batch: ChangeBatch) -> None:
        """Hand out a batch. Everything is queued at its outlet when this returns."""
        touched: dict[Feed, None] = {}
        watchers: dict[Watcher, None] = {}
        for change in batch.changes:
            chain = keys.chain(change.table, change.partition)
            feeds = self._chains.get(chain)
            if feeds is not None:
                assert change.seq > self._joined_upto, "published after a snapshot that holds it"
                for feed in feeds.candidates(change):
                    feed.take(change)
                    touched[feed] = None
                feeds.seq = change.seq
            if self._watched:
                watchers.update(self._watched.get(chain, ()))
                watchers.update(self._watched.get(chain[:_TABLE_BYTES], ()))
            if change.last_of_txn and touched:
                self._commit(touched)
        if touched:
            self._commit(touched)
        self.seq_last = max(self.seq_last, batch.seq_last)
        for watcher in watchers:
            watcher.touched()

    def close_table(self, table: int) -> None:
        """End the subscriptions of a table that was dropped."""
        members = [member for member in self._members if member.plan.table.id == table]
        self._end_all(members, EndReason.TABLE_DROPPED, "")
        self._end_watchers(EndReason.TABLE_DROPPED, table, None)

    def close_older(self, table: TableDef) -> None:
        """End the subscriptions that rest on an older definition of a table.

        Those of single rows go on when rows are read as before: an index was made, say.
        """
        members = [
            member
            for member in self._members
            if member.plan.table.id == table.id
            and member.plan.table.version < table.version
            and not reads_alike(member.plan.table, table)
        ]
        self._end_all(members, EndReason.SCHEMA_CHANGED, "")
        self._end_watchers(EndReason.SCHEMA_CHANGED, table.id, table.version)

    def close_all(self, reason: str) -> None:
        """End every stream: this node leads the group no longer, or its state was replaced."""
        self._end_all(list(self._members), EndReason.LEADERSHIP_LOST, reason)
        for watcher in list(self._watchers):
            self.unwatch(watcher)
            watcher.end_watch(EndReason.LEADERSHIP_LOST, reason)
        self._joined_upto = Seq(0)

    def close_slots(self, slots: Collection[Slot], detail: str) -> None:
        """End what watches chains of slots that were frozen: another group goes on with them.

        To be called once everything up to the cut is published: each cursor stands at the cut then.
        """
        members = [member for member in self._members if _slot_of(member.chain) in slots]
        self._end_all(members, EndReason.SLOT_MOVED, detail)
        for watcher, places in list(self._watchers.items()):
            if any(len(place) > _TABLE_BYTES and _slot_of(place) in slots for place in places):
                self.unwatch(watcher)
                watcher.end_watch(EndReason.SLOT_MOVED, detail)

    # ---- the watchers' side ---------------------------------------------------------------------

    def watch(
        self, watcher: Watcher, chains: Sequence[bytes], tables: Sequence[TableId] = ()
    ) -> None:
        """Be told of changes of `chains`, and of `tables` in whatever partition."""
        places = (*chains, *(keys.U32.pack(table) for table in tables))
        self.unwatch(watcher)
        self._watchers[watcher] = places
        for place in places:
            self._watched.setdefault(place, {})[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        for place in self._watchers.pop(watcher, ()):
            watchers = self._watched.get(place)
            if watchers is not None:
                watchers.pop(watcher, None)
                if not watchers:
                    del self._watched[place]

    # ---- the subscriptions' side ----------------------------------------------------------------

    def enter(self, member: Member) -> None:
        """Be told of ends from now on."""
        self._members.setdefault(member, None)

    def join(self, member: Member, position: Seq, group_seq: Seq) -> None:
        """Get every change of its chain from now on.

        It has them up to `position`, and there is none between it and `group_seq`, which is the
        group's position in this very step.
        """
        assert member in self._members, "a subscription enters before it joins"
        feeds = self._chains.get(member.chain)
        if feeds is None:
            feeds = self._chains[member.chain] = ChainFeeds()
        feed = feeds.by_shape.get(member.plan.shape)
        if feed is None:
            feed = Feed(self, member.plan)
            feeds.add(feed)
        feed.members[member] = (member.push, member.prefix)
        member.position = position
        self._joined_upto = max(self._joined_upto, group_seq)
        self._members[member] = feed

    def detach(self, member: Member) -> None:
        """Get no more changes, but still be told of ends. `member.position` is exact afterwards."""
        feed = self._members.get(member)
        if feed is None:
            return
        self._members[member] = None
        if feed.members.pop(member, None) is not None:
            member.position = max(member.position, self._chains[member.chain].seq)
        if not feed.members:
            self._forget(member.chain, feed)

    def expel(self, member: Member, handed_out: Seq) -> None:
        """Take a member out of its feed in the middle of a batch; it has `handed_out`, no more."""
        feed = self._members[member]
        assert feed is not None
        self._members[member] = None
        del feed.members[member]
        member.position = max(member.position, handed_out)
        if not feed.members:
            self._forget(member.chain, feed)

    def leave(self, member: Member) -> None:
        """Forget a subscription."""
        self.detach(member)
        self._members.pop(member, None)

    def cursor(self, member: Member) -> Seq:
        """The last change of its chain that a subscription was given, or that was not for it."""
        feed = self._members.get(member)
        if feed is None:
            return member.position
        return max(member.position, self._chains[member.chain].seq)

    def event_seq(self, member: Member) -> Seq:
        """The last event of the feed a subscription is in, which it has; 0 for none."""
        feed = self._members.get(member)
        return Seq(0) if feed is None else feed.event_seq

    def statistics(self) -> HubStatistics:
        return HubStatistics(
            len(self._members),
            sum(len(feeds.by_shape) for feeds in self._chains.values()),
            self.events,
            self.deliveries,
            self.fallen,
        )

    def _commit(self, touched: dict[Feed, None]) -> None:
        for feed in touched:
            feed.release(commit=True)
        touched.clear()

    def _end_all(self, members: list[Member], reason: EndReason, detail: str) -> None:
        for member in members:
            self.leave(member)
            text = detail or member.plan.table.full_name
            member.end(StreamEnd(reason, text, member.position))

    def _end_watchers(self, reason: EndReason, table: int, version: int | None) -> None:
        for watcher in list(self._watchers):
            for used in watcher.tables:
                if used.id == table and (version is None or used.version < version):
                    self.unwatch(watcher)
                    watcher.end_watch(reason, used.full_name)
                    break

    def _forget(self, chain: bytes, feed: Feed) -> None:
        feeds = self._chains.get(chain)
        if feeds is not None and feeds.by_shape.get(feed.plan.shape) is feed:
            feeds.remove(feed)
            if not feeds.by_shape:
                del self._chains[chain]


def _slot_of(chain: bytes) -> Slot:
    return slot_of(Partition(keys.split_terminated(chain, _TABLE_BYTES)[0]))
