"""Statements as a grammar: what a client may send over a few tables, valid, nearly, or not at all.

`request` gives one request of an application, `broken` one that somebody's fuzzer would send, both
from a seed alone. It is text and JSON parameters; whether it is allowed, and what it answers, is
the server's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

DDL = (
    "CREATE NAMESPACE app",
    "CREATE USER TABLE app.notes (id INT PRIMARY KEY, txt TEXT, n BIGINT DEFAULT 5,"
    " mail TEXT UNIQUE, CHECK (n < 1000000))",
    "CREATE USER TABLE app.pairs (a TEXT, b INT, v DOUBLE, PRIMARY KEY (a, b))",
    "CREATE USER TABLE app.logs (line TEXT, n INT NOT NULL DEFAULT 0)",
    "CREATE STREAM TABLE app.typing (room TEXT, who TEXT, n INT) WITH (TTL_SECONDS = 10)",
    "CREATE SHARED TABLE app.pub (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'PUBLIC')",
    "CREATE SHARED TABLE app.priv (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'PRIVATE')",
    "INSERT INTO app.pub VALUES (1, 'for all'), (2, 'a')",
    "INSERT INTO app.priv VALUES (1, 'for few')",
)


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    ints: tuple[str, ...]
    texts: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(sorted(self.ints + self.texts))


NOTES = Table("app.notes", ("id", "n"), ("txt", "mail"), ("id",))
PAIRS = Table("app.pairs", ("b", "v"), ("a",), ("a", "b"))
LOGS = Table("app.logs", ("n",), ("line",), ())
TYPING = Table("app.typing", ("n",), ("room", "who"), ())
PUB = Table("app.pub", ("id",), ("v",), ("id",))
PRIV = Table("app.priv", ("id",), ("v",), ("id",))
TABLES = (NOTES, NOTES, NOTES, PAIRS, LOGS, TYPING, PUB, PRIV)
OWN = (NOTES, NOTES, PAIRS, LOGS, TYPING)


ADMINISTRATION = (
    "SHOW TABLES",
    "SHOW TABLES IN app",
    "SHOW NAMESPACES",
    "DESCRIBE app.notes",
    "DESCRIBE app.priv",
    "USE app",
    "USE nowhere",
    "SET consistency = 'stale'",
    "CREATE NAMESPACE mine",
    "CREATE USER TABLE app.mine (id INT PRIMARY KEY)",
    "DROP TABLE app.notes",
    "CREATE USER '{other}' WITH PASSWORD 'Correct-Horse-9'",
    "DROP USER '{other}'",
    "ALTER USER '{other}' SET ROLE dba",
    "SUBSCRIBE TO app.notes WHERE id > 1",
    "BEGIN",
    "SHOW STATS",
    "SHOW QUERIES",
    "SHOW INDEXES",
    "SHOW INDEXES FROM app.priv",
    "SHOW USERS",
    "SHOW ALL",
    "KILL QUERY 'q1-1'",
    "SELECT _user_id, txt FROM all_users.app.notes",
    "SELECT count(*) FROM all_users.app.typing",
    "SELECT * FROM system.users",
    "SELECT * FROM system.queries",
    "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'app'",
    "SELECT t.table_name, n.txt FROM information_schema.tables t LEFT JOIN app.notes n ON true",
    "FLUSH TABLE app.notes",
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `request_id` makes it exactly-once."""

    sql: str
    params: list[Any] | None = None
    request_id: str | None = None
    namespace: str | None = None
    transaction: str | None = None


@dataclass(slots=True)
class Writer:
    """Draws one statement. `words` are texts it may write as values, `other` a user's name."""

    dice: Random
    words: tuple[str, ...]
    other: str
    params: list[Any] = field(default_factory=list)

    def one(self, *choices: Any) -> Any:
        return self.dice.choice(choices)

    def chance(self, in_ten: int) -> bool:
        return self.dice.randint(0, 9) < in_ten

    # ---- values and expressions -----------------------------------------------------------------

    def value(self, made: Any) -> str:
        """A literal, or a parameter."""
        if self.chance(2):
            self.params.append(made)
            return f"${len(self.params)}"
        match made:
            case None:
                return "NULL"
            case str():
                return "'" + made.replace("'", "''") + "'"
            case _:
                return str(made)

    def int_value(self) -> str:
        return self.value(self.one(0, 1, 2, 3, 4, 7, -1, 1_000_000, 2_147_483_648, None))

    def text_value(self) -> str:
        return self.value(self.one(*self.words, "a", "b", "O'Brien", "é\u0301", "", "%", "1", None))

    def int_of(self, table: Table, depth: int = 2) -> str:
        match self.dice.randint(0, 8 if depth else 3):
            case 0 | 1:
                return self.one(*table.ints)
            case 2 | 3:
                return self.int_value()
            case 4:
                sign = self.one("+", "-", "*", "/", "%")
                return f"({self.int_of(table, depth - 1)} {sign} {self.int_of(table, depth - 1)})"
            case 5:
                return f"{self.one('abs', 'coalesce', 'max', 'nope')}({self.int_of(table, 0)})"
            case 6:
                return f"length({self.text_of(table, 0)})"
            case 7:
                return f"CAST({self.text_of(table, 0)} AS INT)"
            case _:
                when = self.condition(table, 0)
                return f"CASE WHEN {when} THEN {self.int_of(table, 0)} ELSE {self.int_value()} END"

    def text_of(self, table: Table, depth: int = 2) -> str:
        match self.dice.randint(0, 8 if depth else 4):
            case 0 | 1:
                return self.one(*table.texts)
            case 2 | 3:
                return self.text_value()
            case 4:
                return self.one("CURRENT_USER()", "CURRENT_USER", "CURRENT_ROLE()", "'x'")
            case 5:
                return f"({self.text_of(table, depth - 1)} || {self.text_of(table, 0)})"
            case 6:
                return f"{self.one('upper', 'lower', 'trim', 'reverse')}({self.text_of(table, 0)})"
            case 7:
                return f"CAST({self.int_of(table, 0)} AS TEXT)"
            case _:
                return f"coalesce({self.text_of(table, 0)}, {self.text_value()})"

    def condition(self, table: Table, depth: int = 2) -> str:
        match self.dice.randint(0, 11 if depth else 5):
            case 0 | 1 if table.key:
                return self.by_key(table)
            case 0 | 1 | 2:
                sign = self.one("=", "<>", "<", ">=", "!=")
                return f"{self.int_of(table, 0)} {sign} {self.int_of(table, 0)}"
            case 3:
                return (
                    f"{self.text_of(table, 0)} {self.one('=', '<', '<>')} {self.text_of(table, 0)}"
                )
            case 4:
                column = self.one(*table.columns)
                return f"{column} IS {self.one('', 'NOT ')}NULL"
            case 5:
                values = ", ".join(self.int_value() for _ in range(self.one(1, 2, 3)))
                return f"{self.one(*table.ints)} {self.one('', 'NOT ')}IN ({values})"
            case 6:
                pattern = self.one("'%a%'", "'_'", "'%'", "''", "'%\\_%'")
                return f"{self.text_of(table, 0)} LIKE {pattern}"
            case 7:
                return f"{self.int_of(table, 0)} BETWEEN {self.int_value()} AND {self.int_value()}"
            case 8:
                return f"NOT ({self.condition(table, depth - 1)})"
            case 9 | 10:
                word = self.one("AND", "OR")
                left, right = (self.condition(table, depth - 1) for _ in range(2))
                return f"({left} {word} {right})"
            case _:
                inner = self.one(*TABLES)
                if self.chance(5):
                    return f"{self.one('', 'NOT ')}EXISTS (SELECT 1 FROM {inner.name})"
                return f"{self.one(*table.ints)} IN (SELECT {inner.ints[0]} FROM {inner.name})"

    def by_key(self, table: Table) -> str:
        wanted = [
            f"{name} = {self.int_value() if name in table.ints else self.text_value()}"
            for name in table.key
        ]
        return " AND ".join(wanted)

    # ---- statements -----------------------------------------------------------------------------

    def name_of(self, table: Table) -> str:
        bare = table.name.removeprefix("app.")
        spelled = (
            table.name,
            table.name,
            table.name,
            f'"app"."{bare}"',
            f"APP.{bare.upper()}",
            bare,
            f"all_users.{table.name}",
            f"{self.other}.{bare}",
            f'"{self.other}".app.{bare}',
            "app.nothing",
            "system.users",
            "information_schema.tables",
        )
        return spelled[self.dice.randint(0, 4 if self.chance(9) else len(spelled) - 1)]

    def insert(self) -> str:
        table = self.one(*OWN, PUB, PRIV) if self.chance(2) else self.one(*OWN)
        columns = [name for name in table.columns if name in table.key or self.chance(7)]
        if not columns:
            columns = list(table.columns)
        if self.chance(1):
            columns.append(self.one("nope", "_seq", '"n"', *table.columns))
        listed = f" ({', '.join(columns)})" if self.chance(9) else ""
        if self.chance(1):
            source = self.select(columns=len(columns))
        else:
            rows = [
                ", ".join(
                    self.int_value() if name in table.ints else self.text_value()
                    for name in columns
                )
                for _ in range(self.one(1, 1, 1, 2, 3))
            ]
            source = "VALUES " + ", ".join(f"({row})" for row in rows)
        return f"INSERT INTO {self.name_of(table)}{listed} {source}{self.after_insert(table)}"

    def after_insert(self, table: Table) -> str:
        text = ""
        if self.chance(3):
            target = f" ({', '.join(table.key)})" if table.key and self.chance(8) else ""
            if table is NOTES and self.chance(3):
                target = " (mail)"
            if self.chance(4) or not target:
                text += f" ON CONFLICT{target} DO NOTHING"
            else:
                column = self.one(*table.columns)
                made = self.one(f"excluded.{column}", self.int_value(), self.text_value())
                text += f" ON CONFLICT{target} DO UPDATE SET {column} = {made}"
        return text + self.returning(table)

    def returning(self, table: Table) -> str:
        if not self.chance(3):
            return ""
        return " RETURNING " + self.one("*", ", ".join(table.columns), "_seq", table.texts[0])

    def where(self, table: Table, in_ten: int = 8) -> str:
        return f" WHERE {self.condition(table)}" if self.chance(in_ten) else ""

    def update(self) -> str:
        table = self.one(*OWN, PUB, PRIV) if self.chance(1) else self.one(*OWN)
        column = self.one(*table.columns)
        made = self.int_of(table) if column in table.ints else self.text_of(table)
        where = self.where(table, 9)
        return f"UPDATE {self.name_of(table)} SET {column} = {made}{where}{self.returning(table)}"

    def delete(self) -> str:
        table = self.one(*OWN, PUB, PRIV) if self.chance(1) else self.one(*OWN)
        return f"DELETE FROM {self.name_of(table)}{self.where(table, 9)}{self.returning(table)}"

    def select(self, columns: int | None = None) -> str:
        table = self.one(*TABLES)
        name = self.name_of(table)
        match self.dice.randint(0, 11) if columns is None else 0:
            case 0 | 1 | 2:
                what = "*" if columns is None else ", ".join([self.text_of(table, 0)] * columns)
                return f"SELECT {what} FROM {name}{self.where(table)}"
            case 3 if table.key:
                return f"SELECT {self.text_of(table)} AS t FROM {name} WHERE {self.by_key(table)}"
            case 3 | 4:
                what = self.one("count(*)", "count(*), sum(1)", f"max({table.ints[0]})")
                return f"SELECT {what} FROM {name}{self.where(table)}"
            case 5:
                column = self.one(*table.columns)
                return (
                    f"SELECT {column}, count(*) AS c FROM {name} GROUP BY {column}"
                    f" HAVING count(*) > {self.int_value()} ORDER BY {column}, c"
                )
            case 6:
                order = ", ".join(table.columns)
                cut = f" LIMIT {self.one(0, 1, 2, 'NULL', -1)} OFFSET {self.one(0, 1)}"
                return f"SELECT {order} FROM {name}{self.where(table)} ORDER BY {order}{cut}"
            case 7:
                inner = self.one(*TABLES)
                join = self.one("JOIN", "LEFT JOIN", "FULL JOIN", "CROSS JOIN")
                on = "" if join == "CROSS JOIN" else f" ON l.{table.ints[0]} = r.{inner.ints[0]}"
                what = f"l.{table.texts[0]} AS x, r.{inner.texts[0]} AS y"
                return f"SELECT {what} FROM {name} l {join} {inner.name} r{on} ORDER BY x, y"
            case 8:
                where = self.where(table)
                return f"WITH c AS (SELECT * FROM {name}{where}) SELECT count(*) AS n FROM c"
            case 9:
                inner = self.one(*TABLES)
                word = self.one("UNION", "UNION ALL", "EXCEPT", "INTERSECT")
                return (
                    f"SELECT {table.ints[0]} AS k FROM {name} {word}"
                    f" SELECT {inner.ints[0]} FROM {inner.name} ORDER BY k"
                )
            case 10:
                inner = self.one(*TABLES)
                return f"SELECT (SELECT count(*) FROM {inner.name}) AS n, CURRENT_USER() AS me"
            case _:
                return f"SELECT {self.int_of(table)} AS i FROM {name} ORDER BY i"

    def other_statement(self) -> str:
        match self.dice.randint(0, 7):
            case 0:
                return f"EXPLAIN {self.select()}"
            case 1 | 2:
                return f"EXECUTE AS '{self.other}' ({self.select()})"
            case 3:
                return f"EXECUTE AS USER '{self.other}' ({self.insert()})"
            case 4:
                return f"EXECUTE AS '{self.other}' ({self.delete()})"
            case _:
                return self.one(*ADMINISTRATION).format(other=self.other)

    def statement(self) -> str:
        match self.dice.randint(0, 19):
            case 0 | 1 | 2 | 3 | 4 | 5 | 6:
                return self.insert()
            case 7 | 8 | 9:
                return self.update()
            case 10 | 11:
                return self.delete()
            case 19:
                return self.other_statement()
            case _:
                return self.select()

    def dressed(self, text: str) -> str:
        """The same statement, spelled oddly now and then."""
        match self.dice.randint(0, 19):
            case 0:
                return f"{text} ;"
            case 1:
                return f"-- a comment; with one\n{text}"
            case 2:
                return text.replace(" FROM ", "\n\tFROM/* here; */ ")
            case 3:
                return text.replace("SELECT", "select").replace("WHERE", "wHeRe")
            case 4:
                return f"{text}; {self.statement()}"
            case _:
                return text


def request(seed: int, words: tuple[str, ...] = ("w",), other: str = "nobody") -> Request:
    """A request that could come from an application (or from its attacker)."""
    writer = Writer(Random(seed), words, other)
    text = writer.dressed(writer.statement())
    request_id = writer.one("r1", "r2", "r3") if writer.chance(2) else None
    namespace = writer.one("app", "app", "mine") if writer.chance(2) else None
    return Request(text, writer.params or None, request_id, namespace)


_SCRAPS = """
SELECT INSERT UPDATE DELETE FROM WHERE VALUES INTO SET AND OR NOT NULL IN LIKE AS JOIN ON UNION ALL
GROUP BY ORDER LIMIT CASE WHEN THEN END EXISTS CAST INTERVAL CONFLICT DO NOTHING RETURNING EXECUTE
EXPLAIN WITH LATERAL UNNEST OVER ROW FILTER DEFAULT TRUE ( ) [ ] { } , ; . : ? * + - / % = <> :: ||
@ # ! ~ ^ & | \\ ` $$ $a$ -- /* $1 $2 $999 'x' 'open "open "id" x'00' E'\\n' U&'x' N'x' 0x1F 1_000
1 -1 1e400 9223372036854775808 id n txt app.notes NaN Infinity DATE TIMESTAMP '2020-01-01' ARRAY[1]
'1' DAY é 𝄞 ＦＲＯＭ \x00 \ufeff \u200b
"""
SCRAPS = _SCRAPS.split()


def broken(seed: int) -> Request:
    """A statement with something cut, doubled, moved, added; or scraps; or no SQL at all."""
    writer = Writer(Random(seed), ("w",), "nobody")
    kind = writer.dice.randint(0, 9)
    if kind == 0:
        text = wide_text(writer.dice, 30)
    elif kind == 1:
        text = " ".join(writer.dice.choices(SCRAPS, k=writer.dice.randint(0, 12)))
    else:
        text = writer.statement()
        for _ in range(writer.one(1, 1, 2, 3)):
            text = broken_once(writer.dice, text)
    params: list[Any] | None = writer.params or None
    if writer.chance(3):
        params = [junk(writer.dice) for _ in range(writer.dice.randint(0, 4))]
    return Request(text, params, None, writer.one(None, None, "app", "nowhere", "", "a.b"))


def broken_once(dice: Random, text: str) -> str:
    words = text.split(" ")
    at = dice.randrange(len(words))
    scrap = dice.choice(SCRAPS)
    match dice.randint(0, 7):
        case 0:
            del words[at]
        case 1:
            words.insert(at, words[at])
        case 2:
            words.insert(at, scrap)
        case 3:
            words[at] = scrap
        case 4:
            del words[at:]
        case 5:
            other = dice.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        case 6:
            return text[: dice.randint(0, len(text))]
        case _:
            return text.replace(dice.choice(("(", ")", ",", "'", " ", "=")), scrap, 1)
    return " ".join(words)


def wide_text(dice: Random, length_max: int) -> str:
    codes = (
        dice.choice((dice.randint(0, 127), dice.randint(1, 0xD7FF))) for _ in range(length_max)
    )
    return "".join(map(chr, codes))[: dice.randint(0, length_max)]


def junk(dice: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    match dice.randint(0, 9 if depth else 6):
        case 0:
            return None
        case 1:
            return dice.random() < 0.5
        case 2:
            return dice.randint(-(1 << 63), (1 << 64) - 1)
        case 3:
            return dice.choice((0, 1, 1.5, -0.0, 1e308, 5e-324, -1))
        case 4:
            return dice.choice(("", "1", "a", "true", "NaN", "2020-01-01", "[1, 2]", "\\x00"))
        case 5 | 6:
            return wide_text(dice, 12)
        case 7 | 8:
            return [junk(dice, depth - 1) for _ in range(dice.randint(0, 3))]
        case _:
            return {wide_text(dice, 2): junk(dice, depth - 1) for _ in range(dice.randint(0, 2))}
