"""The feeds of one chain, found by what a change holds.

A feed whose filter says `column = value` can be meant only by a change with that value in one of
its two images. Such feeds stand under the key bytes of their value, so a change costs one look-up
per indexed column, however many feeds there are; the others are asked every time.

Keeps: a feed that a change could concern is always among its candidates. (`conditions` of a plan
are conjuncts of its filter, in the same equality that primary keys have.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from kalamdb.model.change import Change
from kalamdb.model.ids import Seq
from kalamdb.model.keys import key_encoder
from kalamdb.sql.bound import LivePlan


class Shaped(Protocol):
    """A feed, as this module sees it."""

    plan: LivePlan


F = TypeVar("F", bound=Shaped)


class _Column(Generic[F]):
    """The feeds that stand under values of one column."""

    __slots__ = ("encode", "feeds")

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self.encode = encode
        self.feeds: dict[bytes, dict[F, None]] = {}


class ChainFeeds(Generic[F]):
    """`seq`: the last change of the chain that all its feeds have seen."""

    __slots__ = ("_columns", "_every", "by_shape", "seq")

    def __init__(self) -> None:
        self.seq = Seq(0)
        self.by_shape: dict[str, F] = {}
        self._every: dict[F, None] = {}
        self._columns: dict[int, _Column[F]] = {}

    def add(self, feed: F) -> None:
        self.by_shape[feed.plan.shape] = feed
        condition = feed.plan.equality
        if condition is None:
            self._every[feed] = None
            return
        column, value = condition
        found = self._columns.get(column)
        if found is None:
            encode = key_encoder(feed.plan.table.by_id[column].type)
            found = self._columns[column] = _Column(encode)
        found.feeds.setdefault(value, {})[feed] = None

    def remove(self, feed: F) -> None:
        del self.by_shape[feed.plan.shape]
        condition = feed.plan.equality
        if condition is None:
            del self._every[feed]
            return
        column, value = condition
        found = self._columns[column]
        del found.feeds[value][feed]
        if not found.feeds[value]:
            del found.feeds[value]
            if not found.feeds:
                del self._columns[column]

    def candidates(self, change: Change) -> Iterable[F]:
        """The feeds a change may concern, each once; a copy: feeds go while they are asked."""
        found = dict(self._every)
        images = [image for image in (change.before, change.after) if image is not None]
        for column, index in self._columns.items():
            for image in images:
                value = image.get(column)
                if value is not None:
                    found.update(index.feeds.get(index.encode(value), ()))
        return found
