"""LIKE and ILIKE: a pattern becomes a test of texts; the frequent forms need no regular
expression.

Keeps: a test takes time in proportion to the text, whatever the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kalamdb.errors import LimitReached

PATTERN_LENGTH_MAX = 4_000
SEARCHED_LENGTH_MAX = 250


def pattern_test(pattern: str, escape: str | None, *, ignore_case: bool) -> Callable[[str], bool]:
    """`%` is any text, `_` any one character; `escape` takes the meaning from what follows it.

    Raises LimitReached for a pattern that would cost too much to follow.
    """
    if not ignore_case and (escape is None or escape not in pattern):
        quick = _quick(pattern)
        if quick is not None:
            return quick
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise LimitReached("LIKE pattern", f"at most {PATTERN_LENGTH_MAX} characters")
    return _in_order([_Part.of(part, ignore_case=ignore_case) for part in _parts(pattern, escape)])


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


def _in_order(parts: list[_Part]) -> Callable[[str], bool]:
    """The parts between `%`: the first and the last stand at the ends, each of the others is taken
    where it is found first. So no text is looked at again and again, as by `.*` in a regular
    expression.
    """
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return lambda text: len(text) == first.size and first.stands_at(text, 0)
    middle = [part for part in parts[1:-1] if part.size]
    for part in middle:
        part.check_searchable()
    size = sum(part.size for part in (first, *middle, last))

    def matches(text: str) -> bool:
        end = len(text) - last.size
        if len(text) < size or not (first.stands_at(text, 0) and last.stands_at(text, end)):
            return False
        at = first.size
        for part in middle:
            at = part.found_in(text, at, end) + part.size
            if at < part.size:
                return False
        return True

    return matches


@dataclass(frozen=True, slots=True)
class _Part:
    """So many characters one after the other: `bare` text, or what a regular expression says."""

    size: int
    bare: str
    form: re.Pattern[str] | None

    @staticmethod
    def of(characters: Sequence[str | None], *, ignore_case: bool) -> _Part:
        """None is any character."""
        if not ignore_case and None not in characters:
            return _Part(len(characters), "".join(filter(None, characters)), None)
        form = "".join("." if one is None else re.escape(one) for one in characters)
        flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
        return _Part(len(characters), "", re.compile(form, flags))

    def check_searchable(self) -> None:
        """Raises LimitReached for what would take long to find in a long text."""
        if self.form is not None and self.size > SEARCHED_LENGTH_MAX:
            raise LimitReached(
                "LIKE pattern",
                f"with _ or ILIKE at most {SEARCHED_LENGTH_MAX} characters between two %",
            )

    def stands_at(self, text: str, at: int) -> bool:
        if self.form is None:
            return text.startswith(self.bare, at)
        return self.form.match(text, at) is not None

    def found_in(self, text: str, at: int, end: int) -> int:
        """Where it is found first, -1 for nowhere."""
        if self.form is None:
            return text.find(self.bare, at, end)
        found = self.form.search(text, at, end)
        return -1 if found is None else found.start()


def _parts(pattern: str, escape: str | None) -> list[list[str | None]]:
    """The characters between `%`, None for `_`."""
    parts: list[list[str | None]] = [[]]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == escape and at < len(pattern):
            parts[-1].append(pattern[at])
            at += 1
        elif char == "%":
            parts.append([])
        else:
            parts[-1].append(None if char == "_" else char)
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
