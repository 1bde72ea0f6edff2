"""Decisions on users. Every change gives the user a new epoch, so tokens made before it die.

Epochs come from the catalog's version, which only grows: a name that is dropped and made again
never gets back an epoch that an old token holds.
"""

from __future__ import annotations

from dataclasses import replace

from kalamdb.decide.draft import Draft
from kalamdb.decide.schema import done, put_record
from kalamdb.errors import AlreadyExists, InvalidDefinition, InvalidStatement, UnknownUser
from kalamdb.model.catalog import CatalogView, User
from kalamdb.model.command import Outcome
from kalamdb.model.principal import Role
from kalamdb.model.work import DropUser, PutUser
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import encode_user

ROOT = "root"


def put_user(draft: Draft, work: PutUser, catalog: CatalogView) -> Outcome:
    epoch = catalog.version + 1
    now_ms = draft.wall_ms
    found = catalog.users.get(work.name)
    role = None if work.role is None else Role(work.role)
    if work.create:
        if work.name in records.RESERVED_USERS:
            raise InvalidDefinition(f"the user name {work.name} is reserved")
        if found is not None:
            if work.if_not_exists:
                return done(draft, 0)
            raise AlreadyExists("user", work.name)
        user = User(
            work.name,
            role or Role.USER,
            work.password_hash or "",
            work.email,
            epoch,
            now_ms,
            now_ms,
        )
    else:
        if found is None:
            raise UnknownUser(work.name)
        user = replace(
            found,
            role=role or found.role,
            password_hash=(
                found.password_hash if work.password_hash is None else work.password_hash
            ),
            email=found.email if work.email is None else work.email,
            epoch=epoch,
            updated_ms=now_ms,
        )
    put_record(draft, catalog, records.user_key(work.name), encode_user(user))
    return done(draft)


def drop_user(draft: Draft, work: DropUser, catalog: CatalogView) -> Outcome:
    if work.name == ROOT:
        raise InvalidStatement("root cannot be dropped")
    if work.name not in catalog.users:
        if work.if_exists:
            return done(draft, 0)
        raise UnknownUser(work.name)
    put_record(draft, catalog, records.user_key(work.name), None)
    return done(draft)
