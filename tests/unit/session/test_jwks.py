"""Keys of an issuer: which are taken, when they are fetched, when they go."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kalamdb.errors import InvalidCredentials, SigningKeyPending, Unavailable
from kalamdb.session.jwks import FileKeys, IssuerKeys
from kalamdb.session.jws import Head, NoKeySet, key_set
from tests.unit.session.fakes import FakeClock

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def jwk(key_id: str | None = "a", key: Any = RSA, **changes: Any) -> dict[str, Any]:
    algorithm = "RS256" if key is RSA or isinstance(key, rsa.RSAPrivateKey) else "ES256"
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(
        key.public_key(), as_dict=True
    )
    whole = {"kid": key_id, "use": "sig", **made, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def keys_of(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


def test_a_key_is_good_for_its_own_algorithms() -> None:
    (rsa_key, ec_key, narrow) = key_set(
        keys_of(jwk(), jwk("b", EC), jwk("c", alg="PS384", key_ops=["verify"]))
    )
    assert {"RS256", "PS512"} <= rsa_key.algorithms
    assert ec_key.algorithms == {"ES256"}
    assert narrow.algorithms == {"PS384"}


@pytest.mark.parametrize(
    "entry",
    [
        jwk(use="enc"),
        jwk(key_ops=["encrypt"]),
        jwk(key_ops="verify"),
        jwk(alg="RSA-OAEP"),
        jwk(alg="HS256"),
        jwk(alg=7),
        jwk(kid=7),
        jwk(n="AQAB"),
        jwk(d="AQAB"),
        jwk("b", EC, crv="P-384"),
        jwk("b", EC, crv="secp256k1"),
        jwk(key=rsa.generate_private_key(65537, 1024)),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "a"},
        {},
        7,
    ],
    ids=range(16),
)
def test_other_keys_are_left_out(entry: Any) -> None:
    assert key_set(keys_of(entry)) == ()


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"keys": {}}', b'{"keys": 7}', keys_of(*[jwk()] * 101)]
)
def test_what_is_no_set(raw: bytes) -> None:
    with pytest.raises(NoKeySet):
        key_set(raw)


class Source:
    """A set in the test's hand."""

    interval_s = 300.0
    spacing_s = 5.0

    def __init__(self) -> None:
        self.answer: bytes | Exception | None = keys_of(jwk())
        self.loads = 0
        self.gate: asyncio.Event | None = None

    async def load(self) -> bytes | None:
        self.loads += 1
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class House:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.source = Source()
        self.keys = IssuerKeys("https://i", self.source, self.clock, stale_max_s=3600)

    def refusal(self, key_id: str | None = "b", algorithm: str = "RS256") -> type[Exception]:
        with pytest.raises((InvalidCredentials, SigningKeyPending, Unavailable)) as caught:
            self.keys.find(Head(algorithm, key_id))
        return caught.type


@pytest.fixture
async def house() -> House:
    house = House()
    await house.keys.load()
    return house


async def test_a_known_key_needs_nobody(house: House) -> None:
    assert house.keys.find(Head("RS256", "a")).key_id == "a"
    assert house.keys.find(Head("PS256", None)).key_id == "a", "the only one it can be"
    assert house.refusal("a", "ES256") is InvalidCredentials
    assert house.source.loads == 1


async def test_without_a_key_id_only_one_key_can_be_meant(house: House) -> None:
    house.source.answer = keys_of(jwk("a"), jwk("b", rsa.generate_private_key(65537, 2048)))
    await house.keys.load()
    assert house.refusal(None) is InvalidCredentials


async def test_an_unknown_key_id_asks_once_in_a_while(house: House) -> None:
    for _ in range(10):
        assert house.refusal() is InvalidCredentials, "asked a moment ago"
    house.clock.pass_s(5)
    assert house.refusal() is SigningKeyPending
    await house.keys.load()
    assert house.refusal() is InvalidCredentials


async def test_all_who_wait_share_one_load() -> None:
    house = House()
    house.source.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(house.keys.run())

        async def sign_in() -> str | None:
            try:
                return house.keys.find(Head("RS256", "a")).key_id
            except SigningKeyPending as pending:
                await pending.ready()
            return house.keys.find(Head("RS256", "a")).key_id

        waiting = [tasks.create_task(sign_in()) for _ in range(20)]
        while not house.source.loads:
            await asyncio.wait(waiting, timeout=0.001)
        house.source.gate.set()
        assert await asyncio.gather(*waiting) == ["a"] * 20
        assert house.source.loads == 1
        running.cancel()


async def test_a_key_that_left_is_gone_and_told(house: House) -> None:
    told: list[None] = []
    house.keys.on_removal(lambda: told.append(None))
    house.source.answer = keys_of(jwk(), jwk("b", EC))
    await house.keys.load()
    assert told == []
    house.source.answer = keys_of(jwk("b", EC))
    await house.keys.load()
    assert len(told) == 1
    assert house.refusal("a") is InvalidCredentials
    house.source.answer = keys_of(jwk("b", ec.generate_private_key(ec.SECP256R1())))
    await house.keys.load()
    assert len(told) == 2, "another key under the same id is another key"
    house.source.answer = keys_of()
    await house.keys.load()
    assert house.refusal("b", "ES256") is InvalidCredentials, "an empty set trusts nobody"


@pytest.mark.parametrize("answer", [Unavailable("down"), b"no json"])
async def test_a_failed_load_changes_nothing_until_the_set_is_old(
    house: House, answer: bytes | Exception
) -> None:
    house.source.answer = answer
    for _ in range(3):
        await house.keys.load()
    assert house.keys.find(Head("RS256", "a"))
    assert house.keys.statistics().failed_total == 3
    house.clock.pass_s(3601)
    assert house.refusal("a") is SigningKeyPending
    await house.keys.load()
    assert house.refusal("a") is Unavailable


async def test_without_any_set_nobody_is_refused_for_good() -> None:
    house = House()
    house.source.answer = Unavailable("down")
    assert house.refusal("a") is SigningKeyPending
    await house.keys.load()
    assert house.refusal("a") is Unavailable


async def test_a_file_is_read_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    source = FileKeys(path)
    with pytest.raises(Unavailable):
        await source.load()
    path.write_bytes(keys_of(jwk()))
    assert await source.load() == path.read_bytes()
    assert await source.load() is None
    beside = tmp_path / "new.json"
    beside.write_bytes(keys_of(jwk("b")))
    os.replace(beside, path)
    assert await source.load() == path.read_bytes()
    path.write_bytes(b"x" * (256 * 1024 + 1))
    with pytest.raises(Unavailable):
        await source.load()
    path.write_bytes(keys_of(jwk("c")))
    assert await source.load() == path.read_bytes()
