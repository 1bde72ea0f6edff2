"""LIKE and ILIKE: a pattern becomes a test of texts; the frequent forms need no regular
expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_WILD = re.compile(r"[%_]")


def pattern_test(pattern: str, escape: str | None, *, ignore_case: bool) -> Callable[[str], bool]:
    """`%` is any text, `_` any one character; `escape` takes the meaning from what follows it."""
    if not ignore_case and (escape is None or escape not in pattern):
        quick = _quick(pattern)
        if quick is not None:
            return quick
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    matches = re.compile("".join(_parts(pattern, escape)), flags).fullmatch
    return lambda text: matches(text) is not None


def _quick(pattern: str) -> Callable[[str], bool] | None:
    if "_" in pattern:
        return None
    bare = pattern.strip("%")
    if "%" in bare:
        return None
    before, after = pattern.startswith("%"), pattern.endswith("%")
    if not bare:
        return (lambda text: True) if pattern else (lambda text: text == "")
    if before and after:
        return lambda text: bare in text
    if after:
        return lambda text: text.startswith(bare)
    if before:
        return lambda text: text.endswith(bare)
    return lambda text: text == bare


def _parts(pattern: str, escape: str | None) -> list[str]:
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == escape and at < len(pattern):
            parts.append(re.escape(pattern[at]))
            at += 1
        elif char == "%":
            if parts[-1:] != [".*"]:
                parts.append(".*")
        elif char == "_":
            parts.append(".")
        else:
            parts.append(re.escape(char))
    return parts


def with_backslash(pattern: str, escape: str | None) -> str:
    """The same pattern with a backslash as its escape, which is the only one the engine has."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if escape is not None and char == escape and at < len(pattern):
            following = pattern[at]
            at += 1
            out.append("\\" + following if following in "%_\\" else following)
        else:
            out.append("\\\\" if char == "\\" else char)
    return "".join(out)
