"""Password rules, hashes, the queue of sign-ins, lockout, buckets and the kept secret."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from kalamdb.config import AuthSettings, InvalidSettings
from kalamdb.errors import Overloaded, WeakPassword
from kalamdb.lib.rates import Buckets
from kalamdb.session.lockout import Lockout
from kalamdb.session.passwords import PasswordRules, Passwords, weakness
from kalamdb.session.secret import token_secret
from tests.unit.session.fakes import FakeClock, FakeIds, quick_passwords


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "pässwörter " * 6,  # 66 characters, 78 bytes
        "password",
        "PASSWORD",
        "Qwerty123",
        "aabbaabb",
        "alice-smith",
        "nul\0byte!",
    ],
)
def test_weak_passwords(password: str) -> None:
    assert weakness("Alice-Smith", password, PasswordRules()) is not None


@pytest.mark.parametrize("password", ["correct horse", "pässwörter sind gut", "🐫🐪🐘🦒🐫🐪🐘🦒"])
def test_good_passwords(password: str) -> None:
    assert weakness("alice", password, PasswordRules()) is None


def test_classes_of_characters() -> None:
    rules = PasswordRules(classes=True)
    assert weakness("alice", "Abcdef-123", rules) is None
    for password in ("abcdef-123", "ABCDEF-123", "Abcdef-xyz", "Abcdef1234"):
        assert weakness("alice", password, rules) is not None


async def test_hash_and_verify() -> None:
    passwords = quick_passwords()
    hashed = await passwords.hash("alice", "correct horse")
    assert hashed.startswith("$argon2id$")
    assert hashed != await passwords.hash("alice", "correct horse")
    async with passwords.turn():
        assert await passwords.verify(hashed, "correct horse")
        assert not await passwords.verify(hashed, "Correct horse")
        assert not await passwords.verify(None, "no user has this password")
        assert not await passwords.verify("", "")
        assert not await passwords.verify("$argon2id$broken", "correct horse")
    with pytest.raises(WeakPassword) as caught:
        await passwords.hash("alice", "alice")
    assert "alice" not in str(caught.value)
    passwords.close()


async def test_only_so_many_wait() -> None:
    passwords = Passwords(PasswordRules(), memory_kib=8, passes=1, waiting_max=3)

    async def hash_one() -> object:
        return await passwords.hash("alice", "correct horse")

    done = await asyncio.gather(*(hash_one() for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(each, Overloaded) for each in done) == 2
    assert await hash_one()
    passwords.close()


def test_lockout_counts_failures_in_a_row_and_is_bounded() -> None:
    clock = FakeClock()
    lockout = Lockout(clock, failures_max=2, lock_s=60, entries_max=6)
    lockout.failed("a", "h")
    assert lockout.locked_s("a", "h") == 0
    lockout.failed("a", "h")
    assert lockout.locked_s("a", "h") == 60
    clock.pass_s(59.5)
    assert lockout.locked_s("a", "h") == 1
    clock.pass_s(0.5)
    assert lockout.locked_s("a", "h") == 0
    lockout.failed("a", "h")
    assert lockout.locked_s("a", "h") == 0
    lockout.failed("a", "h")
    for name in "bcd":
        lockout.failed(name, "h")
    assert lockout.locked_s("a", "h") == 0
    assert len(lockout) == 6


def test_who_fails_for_another_locks_themselves_out() -> None:
    clock = FakeClock()
    lockout = Lockout(clock, failures_max=2, lock_s=60)
    lockout.succeeded("a", "home")
    for _ in range(2):
        lockout.failed("a", "thief")
    assert lockout.locked_s("a", "thief") == 60
    assert lockout.locked_s("a", "elsewhere") == lockout.locked_s("a", "home") == 0


def test_many_addresses_lock_a_user_but_where_it_has_been() -> None:
    clock = FakeClock()
    lockout = Lockout(clock, failures_max=2, lock_s=60)
    lockout.succeeded("a", "home")
    for number in range(20):
        assert lockout.locked_s("a", "elsewhere") == 0
        lockout.failed("a", f"thief {number}")
    assert lockout.locked_s("a", "elsewhere") == 60
    assert lockout.locked_s("a", "home") == 0, "who was there before is let in"
    for _ in range(2):
        lockout.failed("a", "home")
    assert lockout.locked_s("a", "home") == 60, "and guesses there count as ever"
    assert lockout.locked_s("b", "elsewhere") == 0
    clock.pass_s(60)
    assert lockout.locked_s("a", "elsewhere") == 0


def test_buckets_fill_again_and_are_bounded() -> None:
    clock = FakeClock()
    buckets = Buckets(clock, rate_per_s=2, burst=3, keys_max=2)
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0.0
    clock.pass_s(0.5)
    assert buckets.take("a") == 0.0
    assert buckets.take("a") == pytest.approx(0.5)
    clock.pass_s(1000)
    assert [buckets.take("a") for _ in range(4)][3] > 0
    buckets.take("c")
    buckets.take("d")
    assert len(buckets) == 2


def test_the_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    made = token_secret(AuthSettings(), tmp_path, FakeIds())
    assert len(made) == 96
    assert token_secret(AuthSettings(), tmp_path, FakeIds()) == made
    assert stat.S_IMODE((tmp_path / "jwt.secret").stat().st_mode) == 0o600
    assert token_secret(AuthSettings(jwt_secret="configured"), tmp_path, FakeIds()) == b"configured"
    (tmp_path / "jwt.secret").write_bytes(b"\n")
    with pytest.raises(InvalidSettings):
        token_secret(AuthSettings(), tmp_path, FakeIds())
