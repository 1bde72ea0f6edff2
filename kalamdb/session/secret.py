"""The secret that signs tokens: configured, or made once and kept in the data directory.

Keeps: the file is private to its owner, and whole or absent after a crash.
"""

from __future__ import annotations

import os
from pathlib import Path

from kalamdb.config import AuthSettings, InvalidSettings
from kalamdb.lib.clock import Ids

SECRET_FILE = "jwt.secret"
SECRET_SIZE_BYTES = 48


def token_secret(settings: AuthSettings, directory: Path, ids: Ids) -> bytes:
    """The configured secret, else the one kept in `directory` (mode 0600), made at first use.

    Raises: InvalidSettings when the kept one is damaged; OSError.
    """
    if settings.jwt_secret is not None:
        return settings.jwt_secret.encode()
    path = directory / SECRET_FILE
    if not path.exists():
        _keep_secret(path, ids.token(SECRET_SIZE_BYTES).hex().encode())
    secret = path.read_bytes().strip()
    if len(secret) < 32:
        raise InvalidSettings(str(path), "auth.jwt_secret", "the file holds no secret; remove it")
    return secret


def _keep_secret(path: Path, secret: bytes) -> None:
    """Written beside, synced, then renamed: a crash leaves a whole file or none."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secret + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
