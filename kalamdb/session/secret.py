"""The key that signs tokens: from the settings, else made once and kept in the data directory."""

from __future__ import annotations

import os
from pathlib import Path

from kalamdb.config import AuthSettings
from kalamdb.errors import Corruption
from kalamdb.lib.clock import Ids

FILE = "jwt_secret"
SIZE_BYTES = 48


def token_secret(settings: AuthSettings, data: Path, ids: Ids) -> bytes:
    """The secret in force. The file is readable by its owner only.

    Raises: Corruption when the kept secret is not what was written.
    """
    if settings.jwt_secret is not None:
        return settings.jwt_secret.encode()
    path = data / FILE
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        return _make(path, ids)
    if len(kept) != 2 * SIZE_BYTES:
        raise Corruption(str(path), 0, "it is not a secret this node wrote")
    return kept.encode()


def _make(path: Path, ids: Ids) -> bytes:
    made = ids.token(SIZE_BYTES).hex().encode()
    fresh = path.with_name(FILE + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, made)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    return made
