"""Passwords: which are good enough, and argon2id hashes made off the event loop.

Keeps: one hash runs at a time and at most `waiting_max` wait, so that sign-ins can take neither the
cores nor the memory from queries. A password is in no log, error or record.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from kalamdb.errors import Overloaded, WeakPassword

T = TypeVar("T")

_COMMON = """
password password1 password12 password123 password1234 passw0rd p@ssw0rd p@ssword1 12345678
123456789 1234567890 12345678910 11111111 00000000 87654321 qwertyui qwertyuiop qwerty123
qwerty1234 1q2w3e4r 1qaz2wsx 1q2w3e4r5t asdfghjkl zxcvbnm1 abcd1234 abc12345 iloveyou
sunshine princess football baseball superman letmein1 letmein123 welcome1 welcome123
monkey123 dragon123 admin123 admin1234 administrator changeme changeme1 changeme123
trustno1 whatever computer internet starwars michelle jennifer kalamdb1 kalamdb123
kalamdbroot rootroot toor1234 secret123 test1234 testtest user1234 default1
"""
COMMON = frozenset(_COMMON.split())


@dataclass(frozen=True, slots=True)
class PasswordRules:
    """What a new password must be: `length_min` in characters, `length_max` in bytes of UTF-8."""

    length_min: int = 8
    length_max: int = 72
    classes: bool = False


def check_password(user: str, password: str, rules: PasswordRules) -> None:
    """Raises WeakPassword saying which rule a new password breaks."""
    complaint = weakness(user, password, rules)
    if complaint:
        raise WeakPassword(complaint)


def weakness(user: str, password: str, rules: PasswordRules) -> str | None:
    """What is wrong with a new password; None for nothing."""
    if len(password) < rules.length_min:
        return f"has fewer than {rules.length_min} characters"
    if len(password.encode("utf-8", "surrogatepass")) > rules.length_max:
        return f"has more than {rules.length_max} bytes"
    lowered = password.lower()
    if "\x00" in password:
        return "holds a NUL character"
    if lowered == user.lower():
        return "is the user's name"
    if lowered in COMMON or len(set(password)) < 3:
        return "is among the first that are guessed"
    if rules.classes and not _has_all_classes(password):
        return "needs an upper case and a lower case letter, a digit and a special character"
    return None


def _has_all_classes(password: str) -> bool:
    tests = (str.isupper, str.islower, str.isdigit)
    return all(any(test(each) for each in password) for test in tests) and not password.isalnum()


class Passwords:
    """Hashes and verifies, one at a time. `close` waits for what runs."""

    def __init__(
        self, rules: PasswordRules, *, memory_kib: int, passes: int, waiting_max: int = 200
    ) -> None:
        self.rules = rules
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._waiting_max = waiting_max
        self._decoy = ""

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None, None]:
        """Wait for one's turn to `verify`, so that failures before this one are counted by then.

        Raises: Overloaded when too many wait.
        """
        if self._waiting >= self._waiting_max:
            raise Overloaded("the queue of sign-ins", self._waiting_max)
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    async def hash(self, user: str, password: str) -> str:
        """The argon2id text of a new password. Raises WeakPassword, Overloaded."""
        check_password(user, password, self.rules)
        async with self.turn():
            return await self._off_loop(lambda: self._hasher.hash(password))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Within a `turn`: does `password` belong to `hashed`? Without a hash: as slow, and no."""
        return await self._off_loop(lambda: self._verify(hashed, password))

    def _verify(self, hashed: str | None, password: str) -> bool:
        if not hashed and not self._decoy:
            self._decoy = self._hasher.hash("no user has this password")
        try:
            return self._hasher.verify(hashed or self._decoy, password) and bool(hashed)
        except (Argon2Error, InvalidHashError):
            return False

    async def _off_loop(self, work: Callable[[], T]) -> T:
        # Shielded: a client that goes away must not free the turn while the thread still works.
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._executor, work)
        )
