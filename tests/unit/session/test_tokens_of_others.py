"""A token of a user whom this process's catalog does not have yet: it may be behind."""

from __future__ import annotations

import pytest

from kalamdb.config import AuthSettings
from kalamdb.errors import InvalidCredentials, SigningKeyPending, Unavailable
from kalamdb.model.principal import Role
from kalamdb.session.auth import Authenticator, when_keys_are_there
from tests.unit.session.fakes import SECRET, FakeClock, FakeGroups, quick_passwords

PASSWORD = "correct-horse"


class Behind(FakeGroups):
    """Its catalog is current after a look, when that is possible."""

    def __init__(self, newest: FakeGroups) -> None:
        super().__init__()
        self.newest = newest
        self.reachable = False
        self.looks = 0

    async def refresh_catalog(self) -> None:
        self.looks += 1
        if not self.reachable:
            raise Unavailable("no leader")
        self.catalog = self.newest.catalog


async def test_it_is_refused_only_after_a_look_that_succeeded() -> None:
    passwords, clock, meta = quick_passwords(), FakeClock(), FakeGroups()
    try:
        meta.put("alice", Role.USER, await passwords.hash("alice", PASSWORD))
        there = Authenticator(meta, passwords, clock, AuthSettings(), secret=SECRET)
        header = f"Bearer {(await there.login('alice', PASSWORD)).access_token}"
    finally:
        passwords.close()
    behind = Behind(meta)
    here = Authenticator(behind, passwords, clock, AuthSettings(), secret=SECRET, follows=True)

    async def ask() -> str:
        return (await when_keys_are_there(lambda: here.authenticate(header))).user

    # Not reached: surely nothing to sign in again for, however often it is asked.
    for _ in range(3):
        with pytest.raises(Unavailable):
            await ask()
    with pytest.raises(SigningKeyPending):
        here.authenticate(header)
    behind.reachable = True
    assert await ask() == "alice"
    assert behind.looks == 4
    meta.drop("alice")
    behind.catalog = meta.catalog
    # One look tells that she is gone; the token is not looked for again.
    with pytest.raises(InvalidCredentials):
        await ask()
    looks = behind.looks
    with pytest.raises(InvalidCredentials):
        await ask()
    assert behind.looks == looks
