"""Decisions on users. Every change gives the user a new epoch, so tokens made before it die.

Epochs come from the catalog's version, which only grows: a name that is dropped and made again
never gets back an epoch that an old token holds.

Keeps: a name is a tenant's id for ever. A dropped user leaves a record behind, so that nobody gets
its rows by taking its name unknowingly; who means to says so (`PutUser.reuse`). A user has a
password or an outside identity, never both.
"""

from __future__ import annotations

from dataclasses import replace

from kalamdb.decide.draft import Draft
from kalamdb.decide.schema import done, put_record
from kalamdb.errors import (
    AlreadyExists,
    InvalidDefinition,
    InvalidStatement,
    UnknownUser,
    UserDropped,
)
from kalamdb.model.catalog import CatalogView, User
from kalamdb.model.command import Outcome
from kalamdb.model.principal import Role
from kalamdb.model.work import DropUser, PutUser
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import encode_user

ROOT = "root"


def put_user(draft: Draft, work: PutUser, catalog: CatalogView) -> Outcome:
    if work.create:
        user = _created(work, catalog)
        if user is None:
            return done(draft, 0)
        user = replace(user, created_ms=draft.wall_ms)
    else:
        user = _changed(work, catalog)
    if work.sign_out and user.identity is not None:
        user = replace(user, signed_out_ms=draft.wall_ms)
    user = replace(user, epoch=catalog.version + 1, updated_ms=draft.wall_ms)
    put_record(draft, catalog, records.user_key(work.name), encode_user(user))
    return done(draft)


def _created(work: PutUser, catalog: CatalogView) -> User | None:
    """The new user without epoch and times; None when there is one and that is as well."""
    if work.name in records.RESERVED_USERS:
        raise InvalidDefinition(f"the user name {work.name} is reserved")
    if work.name in catalog.users:
        if work.if_not_exists:
            return None
        raise AlreadyExists("user", work.name)
    if work.name in catalog.dropped_users and not work.reuse:
        raise UserDropped(work.name)
    role = Role.USER if work.role is None else Role(work.role)
    return User(
        work.name, role, work.password_hash or "", work.email, 0, 0, 0, identity=work.identity
    )


def _changed(work: PutUser, catalog: CatalogView) -> User:
    found = catalog.users.get(work.name)
    if found is None:
        raise UnknownUser(work.name)
    if found.identity is not None and work.password_hash is not None:
        raise InvalidStatement(f"user {work.name} signs in at {found.identity.issuer}")
    return replace(
        found,
        role=found.role if work.role is None else Role(work.role),
        password_hash=found.password_hash if work.password_hash is None else work.password_hash,
        email=found.email if work.email is None else work.email,
    )


def drop_user(draft: Draft, work: DropUser, catalog: CatalogView) -> Outcome:
    if work.name == ROOT:
        raise InvalidStatement("root cannot be dropped")
    found = catalog.users.get(work.name)
    if found is None:
        if work.if_exists:
            return done(draft, 0)
        raise UnknownUser(work.name)
    # Neither password nor identity is kept of who is gone.
    gone = User(
        found.name,
        Role.USER,
        "",
        None,
        catalog.version + 1,
        found.created_ms,
        draft.wall_ms,
        dropped_ms=draft.wall_ms,
    )
    put_record(draft, catalog, records.user_key(work.name), encode_user(gone))
    return done(draft)
