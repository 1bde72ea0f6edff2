"""Stand-ins for what sessions and edges are given: a clock, dice, groups that hold only users."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from kalamdb.config import AuthSettings
from kalamdb.model.catalog import EMPTY_CATALOG, CatalogView, User
from kalamdb.model.principal import Role
from kalamdb.model.work import PutUser
from kalamdb.session.auth import Authenticator
from kalamdb.session.passwords import PasswordRules, Passwords

SECRET = b"0123456789abcdef-signing-key-of-tests"


class FakeClock:
    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000
        self.now_s = 1000.0

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        self.now_s += seconds


class FakeIds:
    def token(self, size_bytes: int) -> bytes:
        return bytes(range(7, 7 + size_bytes))

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=4)


class FakeGroups:
    """Users as meta would keep them: every change bumps the epoch and the catalog's version."""

    def __init__(self) -> None:
        self.catalog: CatalogView = EMPTY_CATALOG
        self.written: list[Any] = []

    def put(self, name: str, role: Role, password_hash: str = "") -> None:
        old = self.catalog.users.get(name)
        epoch = 1 if old is None else old.epoch + 1
        self._replace(
            {**self.catalog.users, name: User(name, role, password_hash, None, epoch, 0, 0)}
        )

    def drop(self, name: str) -> None:
        self._replace({key: user for key, user in self.catalog.users.items() if key != name})

    async def refresh_catalog(self) -> None:
        """It is never behind."""

    async def write_meta(self, work: Any, tag: Any = None) -> Any:
        assert isinstance(work, PutUser)
        self.written.append(work)
        old = self.catalog.users.get(work.name)
        if work.create:
            assert old is None
            old = User(work.name, Role.USER, "", None, 0, 0, 0)
        assert old is not None
        changed = replace(
            old,
            role=old.role if work.role is None else Role(work.role),
            password_hash=old.password_hash if work.password_hash is None else work.password_hash,
            email=old.email if work.email is None else work.email,
            epoch=old.epoch + 1,
        )
        self._replace({**self.catalog.users, work.name: changed})

    def _replace(self, users: dict[str, User]) -> None:
        self.catalog = replace(self.catalog, version=self.catalog.version + 1, users=users)


def quick_passwords() -> Passwords:
    return Passwords(PasswordRules(), memory_kib=8, passes=1)


def authenticator(
    groups: Any, clock: FakeClock, passwords: Passwords, **settings: Any
) -> Authenticator:
    return Authenticator(groups, passwords, clock, AuthSettings(**settings), secret=SECRET)
