"""How the text for the engine says where integers may overflow.

The engine's `+`, `-`, `*`, unary minus and SUM wrap around. What they work on is known to its
planner only, so the text marks them, and `query/arithmetic.py` puts in what fits the types:

    \\0 op hint \\0  left  \\0,\\0  right  \\0.\\0          of `left op right`
    \\0 n hint \\0  operand  \\0.\\0                       of `- operand`
    \\0 s hint \\0  argument  \\0,\\0  inside  \\0,\\0  behind  \\0.\\0
                                  of `SUM ( argument inside ) behind`; `d` of SUM ( DISTINCT … )

Keeps: a NUL that is no mark is doubled, so a value never looks like a mark.
"""

from __future__ import annotations

import re

MARK = "\0"
NEXT = "\0,\0"
END = "\0.\0"

Hint = str
"""The type of a result as far as it is known: `b` BIGINT, `i` INT, `h` SMALLINT, `d` DECIMAL, `o`
another one, `?` not known.
"""

NARROW_FIRST: tuple[Hint, ...] = ("h", "i", "b")


def begin(operator: str, hint: Hint) -> str:
    return f"{MARK}{operator}{hint}{MARK}"


def escaped(text: str) -> str:
    """A text of the user's, for a text with marks."""
    return text.replace(MARK, MARK + MARK) if MARK in text else text


def wider(one: Hint, other: Hint) -> Hint:
    """What an operator makes of two types."""
    if "o" in (one, other):
        return "o"
    if "d" in (one, other):
        return "d" if one != "?" != other else "o"
    if "?" in (one, other):
        return "?"
    return max(one, other, key=NARROW_FIRST.index)


# ---- names the engine makes ---------------------------------------------------------------------


def shown_name(name: str) -> str:
    """A column name the engine made, with the operators that were written."""
    while (found := _CALL.search(name)) is not None:
        arguments, end = _arguments(name, found.end())
        match found[1]:
            case "negate":
                shown = f"(- {arguments[0]})"
            case "total" | "joined" | "same":
                shown = arguments[0].replace(" >> Int64(32)", "")
            case word:
                shown = f" {_WORDS[word]} ".join(arguments)
        name = name[: found.start()] + shown + name[end:]
    return name


_CALL = re.compile(r"kalam_(add|subtract|multiply|negate|total|joined|same)(?:_[bih])?(?:_\d+)?\(")
_WORDS = {"add": "+", "subtract": "-", "multiply": "*"}


def _arguments(name: str, at: int) -> tuple[list[str], int]:
    """What stands between commas up to the bracket that closes, and the index behind it."""
    arguments: list[str] = []
    depth, start = 1, at
    while at < len(name) and depth:
        depth += (name[at] == "(") - (name[at] == ")")
        if (name[at] == "," and depth == 1) or not depth:
            arguments.append(name[start:at])
            start = at + 1
        at += 1
    return arguments or [""], at
