"""How many parameters a statement takes."""

from __future__ import annotations

from kalamdb.errors import InvalidParameter
from kalamdb.sql.bound import Env


def check_count(env: Env, expected: int) -> None:
    """Raises InvalidParameter unless exactly `$1` to `$expected` were sent."""
    sent = len(env.params)
    if sent != expected:
        raise InvalidParameter(None, f"the statement has {expected} parameters, {sent} were sent")
