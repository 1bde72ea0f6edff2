"""Signed tokens (JWS): ours by one secret, those of an outside issuer by its public keys.

The only importer of jwt. What is trusted is settled before a signature is looked at: the algorithm
says whose token it may be, and with whose key it is checked.

Keeps: HS256 is for our own issuer alone and its key is never anything but our secret, so a token
that was signed with a public key as if it were a secret is refused, as is `none`. A public key
serves only algorithms of its own type and size, and nothing in a token brings a key along.
"""

from __future__ import annotations

import binascii
import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from kalamdb.errors import InvalidCredentials

OWN_ALGORITHM = "HS256"
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"ES256": ("P-256", 256), "ES384": ("P-384", 384)}
OUTSIDE_ALGORITHMS = frozenset((*_RSA, *_CURVES))
TOKEN_LENGTH_MAX = 8192
KEYS_MAX = 100
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
_TYPES = frozenset(("jwt", "at+jwt"))  # logout+jwt and others are no sign-in
_INVALID = "the token is not valid"
_NO_TIMES = {f"verify_{name}": False for name in ("exp", "iat", "nbf", "aud")}

PublicKey = RSAPublicKey | EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Head:
    """What a token says of its own signature; nothing of it is proven."""

    algorithm: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class OutsideKey:
    """A public key of an issuer and the algorithms it may be used with."""

    key_id: str | None
    algorithms: frozenset[str]
    key: PublicKey


def head_of(token: str) -> Head:
    """Raises InvalidCredentials for what is no token, or asks for extensions nobody knows."""
    if len(token) > TOKEN_LENGTH_MAX:
        raise InvalidCredentials("the token is too long")
    first, _, _ = token.partition(".")
    try:
        raw = urlsafe_b64decode(first.encode("ascii") + b"=" * (-len(first) % 4))
        said: Any = msgspec.json.decode(raw)
    except (binascii.Error, UnicodeError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidCredentials(_INVALID) from error
    if not isinstance(said, dict) or "crit" in said:
        raise InvalidCredentials(_INVALID)
    fields = cast("dict[str, Any]", said)
    algorithm, key_id, kind = fields.get("alg"), fields.get("kid"), fields.get("typ", "JWT")
    if not isinstance(algorithm, str) or not isinstance(kind, str):
        raise InvalidCredentials(_INVALID)
    if kind.lower().removeprefix("application/") not in _TYPES:
        raise InvalidCredentials(_INVALID)
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= 256):
        raise InvalidCredentials(_INVALID)
    return Head(algorithm, key_id)


def sign(claims: dict[str, Any], secret: bytes) -> str:
    return jwt.encode(  # pyright: ignore[reportUnknownMemberType]
        claims, secret, algorithm=OWN_ALGORITHM
    )


def verified(
    token: str, key: bytes | PublicKey, algorithm: str, issuer: str, required: tuple[str, ...]
) -> dict[str, Any]:
    """The claims of a token whose signature and issuer are right; its times are the caller's to
    compare, on the node's own clock. Raises InvalidCredentials.
    """
    try:
        return jwt.decode(  # pyright: ignore[reportUnknownMemberType]
            token,
            key,
            algorithms=[algorithm],
            issuer=issuer,
            options={"require": list(required), **_NO_TIMES},  # pyright: ignore[reportArgumentType]
        )
    except (jwt.PyJWTError, UnicodeError, TypeError, ValueError) as error:
        raise InvalidCredentials(_INVALID) from error


def times_ms(claims: Mapping[str, Any]) -> tuple[int, int, int]:
    """`exp`, `iat` and `nbf` (0 when it is not there) in Unix ms. Raises InvalidCredentials."""
    found = (claims["exp"], claims["iat"], claims.get("nbf", 0))
    if not all(type(at) in (int, float) and math.isfinite(at) for at in found):
        raise InvalidCredentials(_INVALID)
    expires_ms, issued_ms, begins_ms = (int(at * 1000) for at in found)
    return expires_ms, issued_ms, begins_ms


# ── keys of an issuer ────────────────────────────────────────────────────────────────────────────


class NoKeySet(ValueError):
    """The bytes are no JWK set."""


def key_set(raw: bytes) -> tuple[OutsideKey, ...]:
    """The usable keys of a JWK set: public, for signatures, of a type, size and curve we know.

    Others are left out: a set may hold keys for encryption. Raises NoKeySet.
    """
    try:
        said: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NoKeySet(f"it is no JSON: {error}") from error
    listed: Any = cast("dict[str, Any]", said).get("keys") if isinstance(said, dict) else None
    if not isinstance(listed, list):
        raise NoKeySet('it has no list "keys"')
    entries = cast("list[Any]", listed)
    if len(entries) > KEYS_MAX:
        raise NoKeySet(f"it holds {len(entries)} keys, at most {KEYS_MAX} are read")
    made = (_key(cast("dict[str, Any]", entry)) for entry in entries if isinstance(entry, dict))
    return tuple(key for key in made if key is not None)


def _key(entry: dict[str, Any]) -> OutsideKey | None:
    algorithms = _algorithms(entry)
    key_id = entry.get("kid")
    if not algorithms or "d" in entry or not (key_id is None or isinstance(key_id, str)):
        return None  # `d` is a private key: whoever published it can't vouch for anybody
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list):
        return None
    if "verify" not in operations:
        return None
    try:
        key: Any = jwt.PyJWK(entry, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    match key:
        case RSAPublicKey() if RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
            pass
        case EllipticCurvePublicKey() if key.key_size in {size for _, size in _CURVES.values()}:
            pass
        case _:
            return None
    return OutsideKey(key_id, algorithms, key)


def _algorithms(entry: dict[str, Any]) -> frozenset[str]:
    """Which of ours the key is for, by its type, curve and its own word."""
    match entry.get("kty"):
        case "RSA":
            fitting = frozenset(_RSA)
        case "EC":
            curve = entry.get("crv")
            fitting = frozenset(name for name, (known, _) in _CURVES.items() if known == curve)
        case _:
            fitting = frozenset[str]()
    said = entry.get("alg")
    return fitting if said is None else fitting & {said if isinstance(said, str) else ""}
