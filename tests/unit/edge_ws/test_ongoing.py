"""Live queries as they are listed: the rows of others are not even made."""

from __future__ import annotations

import pytest

from kalamdb.edge.ws.ongoing import Directory, LiveQueries, LiveQuery
from kalamdb.errors import KalamError
from kalamdb.model.principal import Principal, Role
from kalamdb.session.activity import Activity
from kalamdb.sql.redact import AGAIN_LENGTH_MAX, redacted, redacted_again
from kalamdb.sql.statement import Ongoing
from tests.small_node import StepClock

ASKED = LiveQuery("s1", "SELECT * FROM app.m WHERE id = 7", 5, ("app", "m"))


class Streams:
    """Implements `LiveStreams`."""

    def __init__(self) -> None:
        self.asked = 0

    def queries(self) -> list[LiveQuery]:
        self.asked += 1
        return [ASKED]

    def kill(self, subscription_id: str, fault: KalamError) -> None:
        raise AssertionError

    def check_tables(self) -> None:
        raise AssertionError


def test_only_ones_own_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    directory, activity = Directory(StepClock()), Activity()
    activity.offer(Ongoing.LIVE_QUERY, LiveQueries(directory))
    streams: dict[str, Streams] = {}
    for user in ("alice", "bob", "carol"):
        streams[user] = Streams()
        seat = directory.take(streams[user], lambda code, reason: None, None)
        seat.principal = Principal.of(user, Role.USER)
    directory.take(Streams(), lambda code, reason: None, None)  # nobody has signed in

    shown: list[str] = []

    def show(text: str) -> str:
        shown.append(text)
        return redacted(text)

    monkeypatch.setattr("kalamdb.edge.ws.ongoing.redacted_again", show)
    (mine,) = activity.listed(Ongoing.LIVE_QUERY, Principal.of("bob", Role.USER))
    assert (mine.id, mine.owner, mine.table) == ("c1-2:s1", "bob", ("app", "m"))
    assert [each.asked for each in streams.values()] == [0, 1, 0]
    assert shown == [], "an id and a count need no row"
    assert mine.row[6] == "SELECT * FROM app.m WHERE id = ?"
    assert len(list(activity.listed(Ongoing.LIVE_QUERY, Principal.of("root", Role.DBA)))) == 3


def test_a_text_shown_again_is_the_same() -> None:
    for text in ("SELECT 'a'", "SELECT '", f"SELECT '{'x' * AGAIN_LENGTH_MAX}'"):
        assert redacted_again(text) == redacted_again(text) == redacted(text)
