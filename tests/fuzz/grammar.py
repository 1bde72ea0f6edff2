"""One request of a client, from dice: every kind of statement, whole or broken, by anybody.

`request` draws who speaks and what; it is text and JSON parameters, and whether it is allowed and
what it answers is the server's business. Kinds of statements come as often as their cost and what
can go wrong with them deserve.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from kalamdb.model.principal import Role
from tests.fuzz import definitions, queries, writes
from tests.fuzz.speaker import Speaker
from tests.fuzz.spelling import KINDS, spelled
from tests.property.grammar import SCRAPS, broken_once, junk, wide_text

ROLES: Mapping[str, Role] = {
    "alice": Role.USER,
    "bob": Role.USER,
    "carol": Role.USER,
    "svc": Role.SERVICE,
    "dana": Role.DBA,
    "root": Role.SYSTEM,
}
# Whose words nobody else may read; the others can put theirs where all may see them.
SECRETIVE = ("alice", "bob", "carol")
MARKS = {user: f"mArK-{user}-7f3a" for user in ROLES}

DDL = (
    "CREATE NAMESPACE app",
    "CREATE USER TABLE app.notes (id INT PRIMARY KEY, txt TEXT, n BIGINT DEFAULT 5,"
    " mail TEXT UNIQUE, CHECK (n < 1000000))",
    "CREATE USER TABLE app.pairs (a TEXT, b INT, v DOUBLE, at TIMESTAMP, PRIMARY KEY (a, b))",
    "CREATE USER TABLE app.logs (line TEXT, n INT NOT NULL DEFAULT 0)",
    "CREATE USER TABLE app.wide (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), b BOOLEAN,"
    " s SMALLINT, f REAL, d DECIMAL(7, 2), t TEXT, y BYTES, j JSON, ts TIMESTAMPTZ, da DATE,"
    " ti TIME, u UUID, e EMBEDDING(2))",
    "CREATE STREAM TABLE app.typing (room TEXT, who TEXT, n INT) WITH (TTL_SECONDS = 10)",
    "CREATE SHARED TABLE app.pub (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'PUBLIC')",
    "CREATE SHARED TABLE app.priv (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'PRIVATE')",
    "CREATE INDEX by_n ON app.notes (n, id)",
    "CREATE INDEX by_at ON app.pairs (at DESC)",
    "CREATE VIEW app.v0 AS SELECT id, txt, n FROM app.notes WHERE n > 0",
    "INSERT INTO app.pub VALUES (1, 'for all'), (2, 'a')",
    "INSERT INTO app.priv VALUES (1, 'for few')",
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `kind` is what it was meant to be; `transaction`: its id, "new", or None."""

    user: str
    kind: str
    sql: str
    params: list[Any] | None = None
    request_id: str | None = None
    namespace: str | None = None
    transaction: str | None = None


def settings(speaker: Speaker) -> str:
    return speaker.one(
        "USE app",
        "USE nowhere",
        "SET consistency = 'stale'",
        "SET consistency = 'x'",
        "SET nope = 1",
        "SHOW TABLES IN app",
        "SHOW limits.max_params",
        "SHOW limits.nope",
        f"DESCRIBE {speaker.name(speaker.table())} HISTORY",
        f"DESC TABLE {speaker.view()}",
        f"SHOW CREATE TABLE {speaker.name(speaker.table())}",
        f"SHOW CREATE VIEW {speaker.view()}",
        f"SHOW STATS FOR TABLE {speaker.name(speaker.table())}",
        f"SHOW INDEXES FROM {speaker.name(speaker.table())}",
    )


def as_another(speaker: Speaker) -> str:
    """Rows it writes hold the words of who speaks."""
    inner = speaker.one(queries.simple, writes.write)(speaker)
    return f"EXECUTE AS {speaker.one('', 'USER ')}{speaker.user_name()} ({inner})"


def explain(speaker: Speaker) -> str:
    return f"EXPLAIN {speaker.one(queries.select, queries.simple, writes.write)(speaker)}"


def batch(speaker: Speaker) -> str:
    """Several statements; mostly one transaction with savepoints."""
    speaker.is_batch = True
    steps: list[str] = []
    for _ in range(speaker.one(1, 2, 3, 4)):
        steps.append(step(speaker))
    if speaker.chance(20):
        return "; ".join(steps)
    begin = speaker.one(
        "BEGIN",
        "BEGIN",
        "START TRANSACTION READ ONLY",
        "BEGIN WORK",
        "BEGIN; SET TRANSACTION READ WRITE",
    )
    end = speaker.one("COMMIT", "COMMIT", "COMMIT", "ROLLBACK", "END", "COMMIT; SELECT 1", "")
    return "; ".join((begin, *steps, end))


def step(speaker: Speaker) -> str:
    """A statement inside a transaction: on few tables, so that most stay in one group."""
    match speaker.dice.randint(0, 11):
        case 0:
            return f"SAVEPOINT {speaker.one('p', 'q')}"
        case 1:
            return f"ROLLBACK TO SAVEPOINT {speaker.one('p', 'q')}"
        case 2:
            return f"RELEASE {speaker.one('p', 'q')}"
        case 3 | 4 | 5:
            return queries.simple(speaker)
        case 6 if speaker.chance(30):
            return queries.rich(speaker)
        case 7 if speaker.chance(20):
            return speaker.one(settings, definitions.alter_table, as_another)(speaker)
        case _:
            return writes.write(speaker)


def kill(speaker: Speaker) -> str:
    kind = speaker.one("QUERY", "LIVE QUERY", "CONNECTION", *("TRANSACTION",) * 6)
    return f"KILL {kind} {speaker.id()}"


def subscribe(speaker: Speaker) -> str:
    inner = (
        queries.select(speaker)
        if speaker.chance(60)
        else f"{speaker.name(speaker.table())} WHERE n > 1"
    )
    return f"SUBSCRIBE TO {inner}{speaker.maybe(40, ' OPTIONS (last_rows = 2)')}"


Kind = tuple[int, Callable[[Speaker], str], tuple[str, ...]]
EVERYBODY = ("alice",) * 6 + ("bob",) * 4 + ("carol", "svc", "svc", "dana", "root")
POWERFUL = ("svc", "dana", "dana", "root", "root", "alice")

# Weight, what draws it, who says it.
MADE: Mapping[str, Kind] = {
    "insert": (240, writes.insert, EVERYBODY),
    "update": (130, writes.update, EVERYBODY),
    "delete": (50, writes.delete, EVERYBODY),
    "simple select": (190, queries.simple, EVERYBODY),
    "rich select": (70, queries.rich, EVERYBODY),
    "execute as": (25, as_another, ("svc", "dana", "root", "alice")),
    "explain": (20, explain, ("dana", "root", "dana", "root", "svc")),
    "batch": (60, batch, EVERYBODY),
    "alter table": (22, definitions.alter_table, POWERFUL),
    "index": (14, definitions.index, POWERFUL),
    "view": (12, definitions.view, POWERFUL),
    "create table": (8, definitions.create_table, POWERFUL),
    "drop table": (5, definitions.drop_table, POWERFUL),
    "namespace": (4, definitions.namespace, POWERFUL),
    "user": (6, definitions.user, POWERFUL),
    "settings": (16, settings, EVERYBODY),
    "kill": (6, kill, ("alice", "bob", "dana", "root", "dana", "root")),
    "subscribe": (12, subscribe, EVERYBODY),
}
PLACE = re.compile(r"\$([0-9]+)")
SPELLED, BROKEN, IN_TRANSACTION = "spelled", "broken", "in transaction"
WEIGHTS = [*(weight for weight, _, _ in MADE.values()), 60, 110]
CHOICES = [*MADE, SPELLED, BROKEN]

# These forms make what others may see of what is seen: words of many tenants in a SHARED table
# would be nobody's leak.
PLAIN = ("Insert", "Update", "insert", "update", "ExecuteAs", "execute as", "batch", IN_TRANSACTION)


def made(speaker: Speaker, kind: str) -> str:
    if kind == SPELLED:
        chosen = speaker.of(KINDS)
        speaker.plain = chosen in PLAIN
        return spelled(speaker, chosen)
    speaker.plain = kind in PLAIN
    return MADE[kind][1](speaker)


def request(
    dice: Random,
    speaker_for: Callable[[str], Speaker],
    opened: Mapping[str, str],
    *,
    often: float = 0.1,
) -> Request:
    """The next request. `opened` are users with the ids of their open transactions, which go on
    as `often`.
    """
    kind = dice.choices(CHOICES, WEIGHTS)[0]
    user = dice.choice(MADE[kind][2] if kind in MADE else EVERYBODY)
    if opened and dice.random() < often:
        user = dice.choice(list(opened))
        return in_transaction(speaker_for(user), opened[user], dice)
    speaker = speaker_for(user)
    if dice.random() < often / 16:
        speaker.is_batch = True
        text = speaker.one("BEGIN", f"BEGIN; {queries.simple(speaker)}")
        return Request(user, "begin", text, speaker.params or None, transaction="new")
    if kind == BROKEN:
        return broken(speaker, dice)
    text = dressed(speaker, used(speaker, made(speaker, kind)))
    request_id = speaker.one("r1", "r2", "r3") if speaker.chance(3) else None
    namespace = speaker.one("app", "app", "mine") if speaker.chance(15) else None
    return Request(user, kind, text, speaker.params or None, request_id, namespace)


def in_transaction(speaker: Speaker, opened: str, dice: Random) -> Request:
    """Goes on with an open transaction, ends it, or reaches for another's."""
    if dice.random() < 0.2:
        text = speaker.one("COMMIT", "COMMIT", "ROLLBACK")
    else:
        speaker.plain = True
        text = used(speaker, step(speaker))
    if speaker.ids and dice.random() < 0.05:
        opened = dice.choice(speaker.ids)
    request_id = "c1" if text == "COMMIT" and dice.random() < 0.2 else None
    return Request(
        speaker.user, IN_TRANSACTION, text, speaker.params or None, request_id, None, opened
    )


def used(speaker: Speaker, text: str) -> str:
    """With the parameters that stand in the text, from $1 on; others were drawn and not used."""
    kept: list[Any] = []

    def renumbered(place: re.Match[str]) -> str:
        kept.append(speaker.params[int(place[1]) - 1])
        return f"${len(kept)}"

    made_text = PLACE.sub(renumbered, text)
    speaker.params[:] = kept
    return made_text


def dressed(speaker: Speaker, text: str) -> str:
    """The same statement, spelled oddly now and then."""
    match speaker.dice.randint(0, 29):
        case 0:
            return f"{text} ;"
        case 1:
            return f"-- a comment; with one\n{text}"
        case 2:
            return text.replace(" FROM ", "\n\tFROM/* here; */ ")
        case 3:
            return text.replace("SELECT", "select").replace("WHERE", "wHeRe")
        case _:
            return text


def broken(speaker: Speaker, dice: Random) -> Request:
    """A statement with something cut, doubled, moved, added; or scraps; or no SQL at all."""
    drawn = dice.random()
    if drawn < 0.05:
        text = wide_text(dice, 30)
    elif drawn < 0.12:
        text = " ".join(dice.choices(SCRAPS, k=dice.randint(0, 12)))
    else:
        kind = dice.choice([*MADE, SPELLED])
        speaker.plain = True
        text = spelled(speaker, dice.choice(KINDS)) if kind == SPELLED else MADE[kind][1](speaker)
        for _ in range(dice.choice((1, 1, 2, 3))):
            text = broken_once(dice, text)
    params: list[Any] | None = speaker.params or None
    if dice.random() < 0.3:
        params = [junk(dice) for _ in range(dice.randint(0, 4))]
    namespace = dice.choice((None, None, "app", "nowhere", "", "a.b"))
    opened = dice.choice(("new", "nope", "")) if dice.random() < 0.03 else None
    return Request(speaker.user, BROKEN, text, params, None, namespace, opened)
