# pyright: basic
"""The grammar of statements: from the tokens of one statement to the Statement union.

The first words decide; there is no fallback. What KalamDB does not have is refused by name with
what to do instead (`unsupported.py`), what nobody knows is a syntax error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.model.principal import Role
from kalamdb.model.table import TableKind
from kalamdb.sql.create_table import KIND_WORDS, read_create_table
from kalamdb.sql.dialect import tokenize
from kalamdb.sql.dml import read_delete, read_insert, read_query, read_update
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import (
    AlterUser,
    CreateNamespace,
    CreateUser,
    Delete,
    DescribeTable,
    DropNamespace,
    DropTable,
    DropUser,
    ExecuteAs,
    Explain,
    Insert,
    Select,
    SetOption,
    ShowNamespaces,
    ShowTables,
    Statement,
    SubscribeTo,
    Update,
    UseNamespace,
)
from kalamdb.sql.unsupported import (
    ALTERS,
    CREATES,
    DROPS,
    SHOWS,
    STATEMENTS,
    refuse_named,
)

ROLE_WORDS = {
    "dba": Role.DBA,
    "admin": Role.DBA,
    "service": Role.SERVICE,
    "developer": Role.SERVICE,
    "analyst": Role.SERVICE,
    "user": Role.USER,
    "viewer": Role.USER,
    "readonly": Role.USER,
    "system": Role.SYSTEM,
}
SUBSCRIBE_OPTIONS = {
    "last_rows": "last_rows",
    "batch_size": "batch_size",
    "from": "from",
    "from_seq_id": "from",
}


def read_statement(tokens: Sequence[Token], text: str) -> Statement:
    """One statement from all of `tokens`. Raises SyntaxInvalid, Unsupported, InvalidDefinition."""
    reader = Reader(tokens, text)
    word = reader.word()
    if word in ("SELECT", "WITH", "VALUES") or reader.symbol() is TokenType.L_PAREN:
        return read_query(tokens, text)
    read = _READERS.get(word)
    if read is None:
        refuse_named(reader, STATEMENTS)
        reader.fail(f"{reader.shown()} begins no statement")
    statement = read(reader)
    reader.end()
    return statement


# ---- data ----------------------------------------------------------------------------------------


def _explain(reader: Reader) -> Statement:
    reader.expect("EXPLAIN")
    if reader.word() in ("ANALYZE", "ANALYSE", "VERBOSE", "FORMAT", "EXTENDED", "LOGICAL"):
        raise Unsupported(f"EXPLAIN {reader.word()}", "EXPLAIN shows the path of a statement")
    if reader.symbol() is TokenType.L_PAREN and reader.word(1) not in ("SELECT", "WITH", "VALUES"):
        raise Unsupported("options of EXPLAIN", "EXPLAIN shows the path of a statement")
    if reader.accept("PLAN"):
        reader.accept("FOR")
    inner = _rest(reader)
    if not isinstance(inner, (Select, Insert, Update, Delete)):
        raise InvalidStatement("EXPLAIN takes a SELECT, INSERT, UPDATE or DELETE")
    return Explain(inner)


def _rest(reader: Reader) -> Statement:
    tokens = reader.tokens[reader.at :]
    if not tokens:
        reader.fail("a statement is expected")
    if Reader(tokens, reader.text).word() in ("EXPLAIN", "EXECUTE"):
        raise InvalidStatement("EXPLAIN and EXECUTE AS do not hold another EXPLAIN or EXECUTE AS")
    reader.at = len(reader.tokens)
    return read_statement(tokens, reader.text)


def _execute_as(reader: Reader) -> Statement:
    reader.expect("EXECUTE")
    if not reader.accept("AS"):
        raise Unsupported("EXECUTE of prepared statements", "send parameters with the statement")
    if reader.word() == "USER" and reader.symbol(1) is not TokenType.L_PAREN:
        reader.take()
    user = _user_name(reader)
    inside = reader.parenthesised()
    reader.end()
    inner = Reader(inside, reader.text)
    if not inside:
        inner.fail("EXECUTE AS holds one statement")
    if inner.word() in ("EXPLAIN", "EXECUTE"):
        raise InvalidStatement("EXECUTE AS takes one SELECT, INSERT, UPDATE or DELETE")
    return ExecuteAs(user, read_statement(inside, reader.text))


def _subscribe(reader: Reader) -> Statement:
    reader.expect("SUBSCRIBE", "TO")
    selects = reader.word() in ("SELECT", "WITH")
    query = reader.until("OPTIONS")
    if not query:
        reader.fail("a table or a SELECT is expected")
    options = _subscribe_options(reader)
    source = reader.text[query[0].start : query[-1].end + 1]
    text = source if selects else f"SELECT * FROM {source}"
    select = read_query(tokenize(text), text)
    return SubscribeTo(text, select, options)


def _subscribe_options(reader: Reader) -> dict[str, int]:
    options: dict[str, int] = {}
    if not reader.accept("OPTIONS"):
        return options
    reader.expect_symbol(TokenType.L_PAREN, "(")
    while reader.symbol() is not TokenType.R_PAREN:
        # FROM is a word no name may be, but it names an option here.
        key = "from" if reader.accept("FROM") else reader.name("an option")
        if key not in SUBSCRIBE_OPTIONS:
            raise InvalidStatement(
                f"subscription option {key} is unknown; there are last_rows, batch_size, from"
            )
        reader.expect_symbol(TokenType.EQ, "=")
        value = _seq_or_count(reader, key)
        if options.setdefault(SUBSCRIBE_OPTIONS[key], value) != value:
            raise InvalidStatement(f"subscription option {key} is given twice")
        if not reader.accept_symbol(TokenType.COMMA):
            break
    reader.expect_symbol(TokenType.R_PAREN, ")")
    return options


def _seq_or_count(reader: Reader, key: str) -> int:
    token = reader.peek()
    if token is not None and token.token_type in (TokenType.NUMBER, TokenType.STRING):
        digits = token.text
        if digits.isdecimal() and len(digits) <= 19:
            reader.take()
            return int(digits)
    reader.fail(f"a number is expected for {key}")


# ---- namespaces ----------------------------------------------------------------------------------


def _create(reader: Reader) -> Statement:
    reader.expect("CREATE")
    if reader.accept("NAMESPACE"):
        exists = reader.accept("IF", "NOT", "EXISTS")
        return CreateNamespace(reader.name("a namespace name"), exists)
    kind = _table_kind(reader)
    if reader.accept("TABLE"):
        return read_create_table(reader, kind)
    if reader.accept("USER"):
        return _create_user(reader)
    refuse_named(reader, CREATES)
    reader.fail(f"there is no CREATE {reader.shown()}")


def _table_kind(reader: Reader) -> TableKind | None:
    """Take the kind before TABLE; `CREATE USER name` keeps its USER."""
    kind = KIND_WORDS.get(reader.word())
    if kind is None or reader.word(1) != "TABLE":
        return None
    reader.take()
    return kind


def _drop(reader: Reader) -> Statement:
    reader.expect("DROP")
    if reader.accept("NAMESPACE"):
        if_exists = reader.accept("IF", "EXISTS")
        name = reader.name("a namespace name")
        cascade = reader.accept("CASCADE")
        if not cascade:
            reader.accept("RESTRICT")
        return DropNamespace(name, if_exists, cascade)
    _table_kind(reader)
    if reader.accept("TABLE"):
        if_exists = reader.accept("IF", "EXISTS")
        table = reader.table()
        if table.all_users:
            raise InvalidStatement("all_users names tables to read; drop namespace.table")
        if reader.symbol() is TokenType.COMMA:
            raise Unsupported("DROP TABLE of several tables", "drop them one by one")
        if reader.word() == "CASCADE":
            raise Unsupported(
                "DROP TABLE … CASCADE", "nothing depends on a table; write DROP TABLE"
            )
        reader.accept("RESTRICT")
        return DropTable(table, if_exists)
    if reader.accept("USER"):
        if_exists = reader.accept("IF", "EXISTS")
        return DropUser(_user_name(reader), if_exists)
    refuse_named(reader, DROPS)
    reader.fail(f"there is no DROP {reader.shown()}")


def _use(reader: Reader) -> Statement:
    reader.expect("USE")
    if reader.word() == "NAMESPACE" and reader.peek(1) is not None:
        reader.take()
    return UseNamespace(reader.name("a namespace name"))


def _set(reader: Reader) -> Statement:
    reader.expect("SET")
    if reader.word() in ("LOCAL", "TRANSACTION", "CONSTRAINTS", "ROLE", "GLOBAL", "TIME"):
        raise Unsupported(f"SET {reader.word()}", None)
    if reader.word() == "SESSION" and reader.symbol(1) is not TokenType.EQ:
        raise Unsupported("SET SESSION", "SET name = value holds for the rest of the request")
    name = reader.name("an option")
    if name == "namespace":
        reader.accept_symbol(TokenType.EQ) or reader.accept("TO")
        return UseNamespace(reader.name("a namespace name"))
    if not reader.accept_symbol(TokenType.EQ) and not reader.accept("TO"):
        reader.fail("'=' is expected")
    if name == "search_path":
        return UseNamespace(_search_path(reader))
    return SetOption(name, _option_text(reader))


def _search_path(reader: Reader) -> str:
    token = reader.peek()
    if token is not None and token.token_type is TokenType.STRING:
        reader.take()
        name = token.text.lower()
    else:
        name = reader.name("a namespace name")
    if reader.symbol() is TokenType.COMMA:
        raise Unsupported("a search_path of several namespaces", "name one, and qualify the others")
    return name


def _option_text(reader: Reader) -> str:
    token = reader.peek()
    if token is not None and token.token_type in (TokenType.STRING, TokenType.NUMBER):
        reader.take()
        return token.text
    word = reader.word()
    if not word:
        reader.fail("a value is expected")
    reader.take()
    return word.lower()


def _show(reader: Reader) -> Statement:
    reader.expect("SHOW")
    if reader.accept("NAMESPACES") or reader.accept("SCHEMAS") or reader.accept("DATABASES"):
        return ShowNamespaces()
    if reader.accept("TABLES"):
        if reader.accept("IN") or reader.accept("FROM"):
            if reader.word() == "NAMESPACE" and reader.peek(1) is not None:
                reader.take()
            return ShowTables(reader.name("a namespace name"))
        return ShowTables(None)
    refuse_named(reader, SHOWS)
    reader.fail(f"there is no SHOW {reader.shown()}")


def _describe(reader: Reader) -> Statement:
    reader.take()
    if reader.word() == "TABLE" and reader.peek(1) is not None:
        reader.take()
    table = reader.table()
    if table.all_users:
        raise InvalidStatement("describe namespace.table")
    if reader.word() == "HISTORY":
        raise Unsupported("DESCRIBE … HISTORY", "DESCRIBE shows the definition in force")
    return DescribeTable(table)


# ---- users ---------------------------------------------------------------------------------------


def _user_name(reader: Reader) -> str:
    """A user's name, as it is: names of users are ids and keep their case."""
    token = reader.peek()
    if token is not None and token.token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        reader.take()
        if not token.text:
            reader.at -= 1
            reader.fail("a user name is not empty")
        return token.text
    reader.name("a user name")
    assert token is not None
    return token.text


def _create_user(reader: Reader) -> Statement:
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    if reader.word() == "INVITE" and reader.symbol(1) is TokenType.STRING:
        raise Unsupported("CREATE USER INVITE", "create the user with a password")
    name = _user_name(reader)
    reader.expect("WITH")
    password: str | None = None
    if reader.accept("PASSWORD"):
        password = reader.string("a password")
    elif reader.word() in ("OAUTH", "OIDC"):
        raise Unsupported(f"CREATE USER … WITH {reader.word()}", "use WITH PASSWORD '…'")
    elif not reader.accept("INTERNAL"):
        reader.fail("PASSWORD '…' or INTERNAL is expected")
    reader.expect("ROLE")
    role = _role(reader)
    email = reader.string("an email") if reader.accept("EMAIL") else None
    if reader.word() in ("STORAGE_MODE", "STORAGE_ID"):
        raise Unsupported(f"{reader.word()} of a user", None)
    return CreateUser(name, password, role, email, if_not_exists)


def _role(reader: Reader) -> Role:
    token = reader.peek()
    if token is not None and token.token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        word = token.text.lower()
    else:
        word = reader.word().lower()
    role = ROLE_WORDS.get(word)
    if role is None:
        reader.fail(f"a role is expected: {', '.join(ROLE_WORDS)}")
    reader.take()
    return role


def _alter(reader: Reader) -> Statement:
    reader.expect("ALTER")
    if not reader.accept("USER"):
        refuse_named(reader, ALTERS)
        reader.fail(f"there is no ALTER {reader.shown()}")
    name = _user_name(reader)
    reader.expect("SET")
    if reader.accept("PASSWORD"):
        return AlterUser(name, password=reader.string("a password"))
    if reader.accept("ROLE"):
        return AlterUser(name, role=_role(reader))
    if reader.accept("EMAIL"):
        return AlterUser(name, email=reader.string("an email"))
    if reader.word() in ("STORAGE_MODE", "STORAGE_ID"):
        raise Unsupported(f"{reader.word()} of a user", None)
    reader.fail("PASSWORD, ROLE or EMAIL is expected")


_READERS: dict[str, Callable[[Reader], Statement]] = {
    "INSERT": read_insert,
    "UPDATE": read_update,
    "DELETE": read_delete,
    "CREATE": _create,
    "DROP": _drop,
    "ALTER": _alter,
    "USE": _use,
    "SET": _set,
    "SHOW": _show,
    "DESCRIBE": _describe,
    "DESC": _describe,
    "EXPLAIN": _explain,
    "EXECUTE": _execute_as,
    "SUBSCRIBE": _subscribe,
}
