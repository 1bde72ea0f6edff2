"""Users who are not stored, and tokens of the outside issuer against the catalog as it moves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jwt
import pytest

from kalamdb.config import AuthSettings, OidcSettings
from kalamdb.errors import InvalidCredentials, SigningKeyPending
from kalamdb.model.catalog import Identity, User
from kalamdb.model.principal import Role
from kalamdb.session.auth import Authenticator, when_keys_are_there
from kalamdb.session.jwks import IssuerKeys
from kalamdb.session.outside import OutsideTokens
from kalamdb.session.passwords import PasswordRules, Passwords
from tests.e2e.issuer import SigningKey
from tests.unit.session.fakes import SECRET, FakeClock, FakeGroups

URL = "https://issuer.example.org"
KEY = SigningKey("k", "ES256")


class Source:
    interval_s = 300.0
    spacing_s = 5.0

    async def load(self) -> bytes:
        return json.dumps({"keys": [KEY.jwk]}).encode()


class House:
    def __init__(self, issuer: str = URL, *, auto_provision: bool = True) -> None:
        self.clock, self.groups = FakeClock(), FakeGroups()
        self.keys = IssuerKeys(issuer, Source(), self.clock)
        oidc = OidcSettings(
            enabled=True, issuer=issuer, audience="us", auto_provision=auto_provision
        )
        self.auth = Authenticator(
            self.groups,  # pyright: ignore[reportArgumentType] — users are all that is asked of it
            Passwords(PasswordRules(), memory_kib=8, passes=1),
            self.clock,
            AuthSettings(oidc=oidc),
            secret=SECRET,
            outside=OutsideTokens(oidc, self.keys, self.clock),
        )

    def token(self, subject: str, **changes: Any) -> str:
        now_s = self.clock.now_ms // 1000
        claims = {"sub": subject, "iss": URL, "aud": "us", "iat": now_s, "exp": now_s + 600}
        return KEY.sign({**claims, **changes})

    def store(self, user: User) -> None:
        catalog = self.groups.catalog
        users = {**catalog.users, user.name: user}
        self.groups.catalog = replace(catalog, version=catalog.version + 1, users=users)


@pytest.fixture
async def house() -> House:
    made = House()
    await made.keys.load()
    return made


async def test_a_passing_user_ends_when_the_name_becomes_somebodys(house: House) -> None:
    header = f"Bearer {house.token('pat')}"
    principal = house.auth.authenticate(header)
    assert (principal.user, principal.role, principal.epoch) == ("pat", Role.USER, 0)
    assert house.auth.authenticate(header) is principal
    house.groups.put("other", Role.USER)
    assert house.auth.authenticate(header) is principal
    house.groups.put("pat", Role.USER, "a hash")
    assert not house.auth.stands(principal)
    with pytest.raises(InvalidCredentials):
        house.auth.authenticate(header)


async def test_exchanged_tokens_of_a_passing_user_are_its_issuers(house: House) -> None:
    done = house.auth.exchange(house.token("pat"), "", is_id_token=False)
    header = f"Bearer {done.access_token}"
    assert house.auth.authenticate(header).user == "pat"
    assert house.auth.refresh(done.refresh_token).user.name == "pat"
    for other in (House("https://another.example.org"), House(auto_provision=False)):
        with pytest.raises(InvalidCredentials):
            other.auth.authenticate(header)
        with pytest.raises(InvalidCredentials):
            other.auth.refresh(done.refresh_token)
    said = jwt.decode(done.access_token, options={"verify_signature": False})
    for changes in ({"role": "dba"}, {"idp": 7}, {"idp": None}):
        forged = jwt.encode({**said, **changes}, SECRET)  # even with our own secret
        with pytest.raises(InvalidCredentials):
            house.auth.authenticate(f"Bearer {forged}")


async def test_a_stored_users_role_is_what_counts_now(house: House) -> None:
    token = house.token("olga", role="system")
    olga = User("olga", Role.SERVICE, "", None, 5, 0, 0, Identity(URL, "olga"))
    house.store(olga)
    header = f"Bearer {token}"
    assert house.auth.authenticate(header).role is Role.SERVICE
    house.store(replace(olga, role=Role.USER, epoch=6))
    assert house.auth.authenticate(header).role is Role.USER
    house.store(replace(olga, epoch=7, signed_out_ms=house.clock.now_ms))
    with pytest.raises(InvalidCredentials):
        house.auth.authenticate(header)
    later = f"Bearer {house.token('olga', iat=house.clock.now_ms // 1000 + 1)}"
    assert house.auth.authenticate(later).epoch == 7


async def test_edges_wait_for_keys_once() -> None:
    house = House()
    header = f"Bearer {house.token('pat')}"
    with pytest.raises(SigningKeyPending) as pending:
        house.auth.authenticate(header)
    assert "retry" in str(pending.value)
    asked = 0

    def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise SigningKeyPending(URL, house.keys.load)
        return house.auth.authenticate(header).user

    assert await when_keys_are_there(ask) == "pat"
