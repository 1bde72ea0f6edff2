"""Sign-ins and tokens: what is let in, what is not, and what ends a token."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from kalamdb.errors import (
    AccountLocked,
    AlreadyExists,
    InvalidCredentials,
    InvalidDefinition,
    KalamError,
    MissingAuthorization,
    RemoteAccessDenied,
    SetupRequired,
    TokenExpired,
    WeakPassword,
)
from kalamdb.model.principal import Role
from kalamdb.session.auth import Authenticator, FirstUser
from kalamdb.session.passwords import PasswordRules, Passwords
from tests.unit.session.fakes import (
    SECRET,
    FakeClock,
    FakeGroups,
    FakeIds,
    authenticator,
    quick_passwords,
)

PASSWORD = "correct horse battery"


class World:
    """One authenticator with alice (role user) and a root without a password."""

    def __init__(self, passwords: Passwords, alice_hash: str) -> None:
        self.clock = FakeClock()
        self.groups = FakeGroups()
        self.groups.put("alice", Role.USER, alice_hash)
        self.groups.put("root", Role.SYSTEM)
        self.passwords = passwords
        self.auth: Authenticator = authenticator(self.groups, self.clock, passwords)

    async def access(self) -> str:
        return (await self.auth.login("alice", PASSWORD)).access_token

    def claims(self, **changes: Any) -> dict[str, Any]:
        now_s = self.clock.now_ms // 1000
        good = {
            "sub": "alice",
            "iss": "kalamdb",
            "iat": now_s,
            "exp": now_s + 3600,
            "role": "user",
            "token_type": "access",
            "epoch": 1,
        }
        return {key: value for key, value in (good | changes).items() if value is not ...}

    def refusal(self, token: str) -> type[Exception]:
        with pytest.raises(KalamError) as caught:
            self.auth.authenticate(f"Bearer {token}")
        return caught.type


@pytest.fixture(scope="module")
def passwords() -> Iterator[Passwords]:
    made = quick_passwords()
    yield made
    made.close()


@pytest.fixture
async def world(passwords: Passwords) -> World:
    return World(passwords, await passwords.hash("alice", PASSWORD))


def signed(claims: dict[str, Any], key: bytes = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


async def test_login_gives_tokens_that_authenticate(world: World) -> None:
    done = await world.auth.login("alice", PASSWORD)
    principal = world.auth.authenticate(f"Bearer {done.access_token}")
    assert (principal.user, principal.role, principal.epoch) == ("alice", Role.USER, 1)
    assert done.expires_ms == world.clock.now_ms + 86_400_000
    assert done.refresh_expires_ms == world.clock.now_ms + 7 * 86_400_000
    assert world.auth.me(done.access_token).name == "alice"
    assert world.groups.written == []


async def test_second_time_is_from_the_cache(world: World) -> None:
    header = f"bearer {await world.access()}"
    assert world.auth.authenticate(header) is world.auth.authenticate(header)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"},
        {"sub": 7},
        {"sub": "nobody"},
        {"epoch": 2},
        {"epoch": "1"},
        {"epoch": True},
        {"role": "dba"},
        {"token_type": "refresh"},
        {"token_type": "api"},
        {"exp": "never"},
        {"exp": float("inf")},
        {"iat": 1_800_000_000 + 61},
        {"nbf": 1_800_000_000 + 61},
        *({name: ...} for name in ("sub", "iss", "exp", "iat", "role", "token_type", "epoch")),
    ],
    ids=str,
)
def test_a_signed_token_with_a_wrong_claim_is_refused(
    world: World, changes: dict[str, Any]
) -> None:
    assert world.refusal(signed(world.claims(**changes))) is InvalidCredentials


def test_the_plain_claims_are_good(world: World) -> None:
    assert world.auth.authenticate(f"Bearer {signed(world.claims())}").user == "alice"


def test_a_token_of_another_key_is_refused(world: World) -> None:
    assert world.refusal(signed(world.claims(), key=b"another key of the same length.......")) is (
        InvalidCredentials
    )


def test_a_token_without_a_signature_is_refused(world: World) -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(world.claims()).encode()).rstrip(b"=").decode()
    assert world.refusal(f"{head}.{body}.") is InvalidCredentials
    good = signed(world.claims())
    assert world.refusal(good[: good.rindex(".") + 1]) is InvalidCredentials


def test_another_algorithm_is_refused(world: World) -> None:
    token = signed(world.claims(), key=SECRET * 2, algorithm="HS512")
    assert world.refusal(token) is InvalidCredentials


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\udcff.x.y", "a" * 9000, "é.é.é"])
def test_garbage_is_refused(world: World, token: str) -> None:
    assert world.refusal(token) is InvalidCredentials


def test_only_bearer_is_accepted(world: World) -> None:
    with pytest.raises(MissingAuthorization):
        world.auth.authenticate(None)
    with pytest.raises(InvalidCredentials):
        world.auth.authenticate("Basic YWxpY2U6cGFzc3dvcmQ=")


async def test_a_token_expires_after_the_leeway_even_when_cached(world: World) -> None:
    header = f"Bearer {await world.access()}"
    world.auth.authenticate(header)
    world.clock.pass_s(86_400 + 59)
    world.auth.authenticate(header)
    world.clock.pass_s(2)
    with pytest.raises(TokenExpired):
        world.auth.authenticate(header)


async def test_a_role_change_ends_cached_tokens(world: World) -> None:
    header = f"Bearer {await world.access()}"
    principal = world.auth.authenticate(header)
    world.groups.put("bob", Role.USER)  # somebody else's change ends nothing
    assert world.auth.authenticate(header) is principal
    assert world.auth.stands(principal)
    world.groups.put("alice", Role.DBA)
    assert world.refusal(header.removeprefix("Bearer ")) is InvalidCredentials
    assert not world.auth.stands(principal)


async def test_a_dropped_user_has_no_token_and_no_name_to_inherit_it(world: World) -> None:
    token = await world.access()
    world.auth.authenticate(f"Bearer {token}")
    world.groups.drop("alice")
    assert world.refusal(token) is InvalidCredentials
    for _ in range(2):
        world.groups.put("alice", Role.USER)
    assert world.refusal(token) is InvalidCredentials


async def test_refresh_takes_refresh_tokens_only(world: World) -> None:
    done = await world.auth.login("alice", PASSWORD)
    world.clock.pass_s(3600)
    again = world.auth.refresh(done.refresh_token)
    assert world.auth.authenticate(f"Bearer {again.access_token}").user == "alice"
    with pytest.raises(InvalidCredentials):
        world.auth.refresh(done.access_token)
    with pytest.raises(InvalidCredentials):
        world.auth.authenticate(f"Bearer {done.refresh_token}")
    with pytest.raises(MissingAuthorization):
        world.auth.refresh(None)


async def test_signing_out_ends_every_token(world: World) -> None:
    done = await world.auth.login("alice", PASSWORD)
    world.auth.authenticate(f"Bearer {done.access_token}")
    await world.auth.logout(done.access_token)
    assert world.refusal(done.access_token) is InvalidCredentials
    with pytest.raises(InvalidCredentials):
        world.auth.refresh(done.refresh_token)
    await world.auth.logout(done.access_token)  # there is nothing left to end
    assert len(world.groups.written) == 1


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_five_failures_lock_a_name_for_a_while(world: World, name: str) -> None:
    for _ in range(5):
        with pytest.raises(InvalidCredentials):
            await world.auth.login(name, "wrong password")
    with pytest.raises(AccountLocked) as caught:
        await world.auth.login(name, PASSWORD)
    assert caught.value.retry_after_s == 900
    world.clock.pass_s(901)
    if name == "alice":
        await world.auth.login(name, PASSWORD)
    assert world.groups.written == []


class SlowPasswords(Passwords):
    """While a password is verified, something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__(PasswordRules(), memory_kib=8, passes=1)
        self._happens = happens

    async def verify(self, hashed: str | None, password: str) -> bool:
        good = await super().verify(hashed, password)
        self._happens()
        return good


@pytest.mark.parametrize("change", ["dropped", "other password"])
async def test_a_user_that_changes_while_signing_in(world: World, change: str) -> None:
    def happens() -> None:
        if change == "dropped":
            world.groups.drop("alice")
        else:
            world.groups.put("alice", Role.USER, "another hash")

    slow = SlowPasswords(happens)
    with pytest.raises(InvalidCredentials):
        await authenticator(world.groups, world.clock, slow).login("alice", PASSWORD)
    slow.close()


async def test_guesses_at_the_same_time_are_counted_too(world: World) -> None:
    guesses = [world.auth.login("alice", f"guess {number}") for number in range(20)]
    refusals = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(each, InvalidCredentials) for each in refusals) == 5
    assert sum(isinstance(each, AccountLocked) for each in refusals) == 15


async def test_success_forgets_failures(world: World) -> None:
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(InvalidCredentials):
                await world.auth.login("alice", "wrong password")
        await world.auth.login("alice", PASSWORD)


async def test_a_user_without_a_password_cannot_sign_in(world: World) -> None:
    world.groups.put("robot", Role.SERVICE)
    for password in ("", "no user has this password", "anything"):
        with pytest.raises(InvalidCredentials):
            await world.auth.login("robot", password)
    with pytest.raises(SetupRequired):
        await world.auth.login("root", "")
    with pytest.raises(InvalidCredentials):
        await world.auth.login("root", "guess")


async def test_setup_makes_a_dba_and_roots_password_once(world: World) -> None:
    assert world.auth.needs_setup
    first = FirstUser("carol", "carol-has-a-password", "root-has-another-one", "c@example.org")
    user = await world.auth.setup(first)
    assert (user.name, user.role, user.email) == ("carol", Role.DBA, "c@example.org")
    assert not world.auth.needs_setup
    await world.auth.login("carol", "carol-has-a-password")
    await world.auth.login("root", "root-has-another-one")
    with pytest.raises(AlreadyExists):
        await world.auth.setup(FirstUser("dave", "carol-has-a-password", "root-has-another-one"))


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (FirstUser("root", "a-good-password", "another-good-one"), InvalidDefinition),
        (FirstUser("../etc", "a-good-password", "another-good-one"), InvalidDefinition),
        (FirstUser("alice", "a-good-password", "another-good-one"), AlreadyExists),
        (FirstUser("carol", "short", "another-good-one"), WeakPassword),
        (FirstUser("carol", "a-good-password", "password"), WeakPassword),
    ],
)
async def test_a_refused_setup_changes_nothing(
    world: World, first: FirstUser, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await world.auth.setup(first)
    assert world.groups.written == []


def test_setup_is_for_this_machine(world: World) -> None:
    world.auth.check_local("setup", local=True)
    with pytest.raises(RemoteAccessDenied):
        world.auth.check_local("setup", local=False)
    open_auth = authenticator(world.groups, world.clock, world.passwords, allow_remote_setup=True)
    open_auth.check_local("setup", local=False)


async def test_root_is_made_at_first_boot(passwords: Passwords) -> None:
    groups, clock = FakeGroups(), FakeClock()
    made_up = await authenticator(groups, clock, passwords).ensure_root(FakeIds())
    assert made_up is not None
    again = authenticator(groups, clock, passwords, root_password="not used any more")
    assert await again.ensure_root(FakeIds()) is None
    done = await again.login("root", made_up)
    assert (done.user.role, done.user.email) == (Role.SYSTEM, "root@localhost")


async def test_a_configured_root_password_is_taken_and_checked(passwords: Passwords) -> None:
    groups, clock = FakeGroups(), FakeClock()
    with pytest.raises(WeakPassword):
        weak = authenticator(groups, clock, passwords, root_password="password")
        await weak.ensure_root(FakeIds())
    auth = authenticator(groups, clock, passwords, root_password="a-configured-one")
    assert await auth.ensure_root(FakeIds()) is None
    await auth.login("root", "a-configured-one")


async def test_without_a_made_up_password_root_waits_for_setup(passwords: Passwords) -> None:
    groups, clock = FakeGroups(), FakeClock()
    auth = authenticator(groups, clock, passwords, make_root_password=False)
    assert await auth.ensure_root(FakeIds()) is None
    assert auth.needs_setup
    assert "root" in groups.catalog.users


async def test_the_cache_is_bounded(world: World) -> None:
    auth = authenticator(world.groups, world.clock, world.passwords, token_cache_entries=3)
    for count in range(5):
        auth.authenticate(f"Bearer {signed(world.claims(email=str(count)))}")
    assert len(auth._cache) == 3  # pyright: ignore[reportPrivateUsage]
