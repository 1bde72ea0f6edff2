# pyright: basic
"""Statements about users: CREATE USER, ALTER USER, DROP USER, each after its first two words."""

from __future__ import annotations

import json

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.model.catalog import Identity
from kalamdb.model.principal import Role
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import AlterUser, CreateUser, DropUser, Statement

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


def user_name(reader: Reader) -> str:
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


def create_user(reader: Reader) -> Statement:
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    if reader.word() == "INVITE" and reader.symbol(1) is TokenType.STRING:
        raise Unsupported("CREATE USER INVITE", "create the user with a password")
    name = user_name(reader)
    reader.expect("WITH")
    password: str | None = None
    identity: Identity | None = None
    if reader.accept("PASSWORD"):
        password = reader.string("a password")
    elif reader.accept("OIDC") or reader.accept("OAUTH"):
        identity = _identity(reader)
    elif not reader.accept("INTERNAL"):
        reader.fail("PASSWORD '…', OIDC '{…}' or INTERNAL is expected")
    reader.expect("ROLE")
    role = _role(reader)
    email = reader.string("an email") if reader.accept("EMAIL") else None
    if reader.word() in ("STORAGE_MODE", "STORAGE_ID"):
        raise Unsupported(f"{reader.word()} of a user", None)
    reuse_data = reader.accept("REUSE", "DATA")
    return CreateUser(name, password, role, email, if_not_exists, identity, reuse_data)


def _identity(reader: Reader) -> Identity:
    """Who the user is at an outside issuer, as a JSON object."""
    text = reader.string("""a text '{"issuer": "https://…", "subject": "…"}'""")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    fields = {"issuer", "subject"}
    if not isinstance(said, dict) or set(said) != fields:
        raise InvalidDefinition('WITH OIDC takes {"issuer": "https://…", "subject": "…"}')
    if not all(isinstance(said[name], str) and 1 <= len(said[name]) <= 512 for name in fields):
        raise InvalidDefinition("issuer and subject of a user are texts of 1 to 512 characters")
    return Identity(said["issuer"], said["subject"])


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


def alter_user(reader: Reader) -> Statement:
    name = user_name(reader)
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


def drop_user(reader: Reader) -> Statement:
    if_exists = reader.accept("IF", "EXISTS")
    return DropUser(user_name(reader), if_exists)
