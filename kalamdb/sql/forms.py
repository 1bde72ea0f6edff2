"""Forms of statements: a small notation that people read and tests write statements from.

    WORD ( ) , =      stands for itself
    name              a word in small letters is a placeholder; samples give texts for it
    [ … ]             may be left out
    { a | b }         one of them; in [ a | b ] one of them or none
    …                 what stands before it, again (after a comma: separated by commas)

`spellings` gives statements that a form stands for: the shortest, one for each optional part and
each choice, and one with everything. Keeps: every spelling must parse, so a form that promises what
the grammar does not take is a failing test.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r"\s+|[\[\]{}|…]|'[^']*'|[A-Za-z_][A-Za-z_0-9]*|[^\s\[\]{}|…]")
REPEAT = "…"


@dataclass(frozen=True, slots=True)
class Text:
    """A word, a symbol, or a placeholder."""

    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `parts`; `optional`: or none of them."""

    parts: tuple[Form, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Again:
    """The element before it, a second time; with a comma between them when `comma`."""

    element: Element
    comma: bool


Element = Text | Choice | Again
Form = tuple[Element, ...]


def parse_form(text: str) -> Form:
    """Raises ValueError for a form that is not well made."""
    tokens = [token for token in _TOKEN.findall(text) if not token.isspace()]
    form, at = _sequence(tokens, 0)
    if at != len(tokens):
        raise ValueError(f"{tokens[at]!r} closes nothing in {text!r}")
    return form


def _sequence(tokens: Sequence[str], at: int) -> tuple[Form, int]:
    found: list[Element] = []
    while at < len(tokens) and tokens[at] not in ("]", "}", "|"):
        token = tokens[at]
        if token in ("[", "{"):
            choice, at = _choice(tokens, at)
            found.append(choice)
            continue
        if token == REPEAT:
            comma = isinstance(found[-1], Text) and found[-1].text == ","
            if comma:
                found.pop()
            found.append(Again(found[-1], comma))
        else:
            found.append(Text(token))
        at += 1
    return tuple(found), at


def _choice(tokens: Sequence[str], at: int) -> tuple[Choice, int]:
    optional = tokens[at] == "["
    parts: list[Form] = []
    while True:
        part, at = _sequence(tokens, at + 1)
        parts.append(part)
        if at == len(tokens):
            raise ValueError(f"{'[' if optional else '{'} is not closed")
        if tokens[at] != "|":
            break
    if (tokens[at] == "]") is not optional:
        raise ValueError(f"{tokens[at]} closes another bracket")
    return Choice(tuple(parts), optional), at + 1


# ---- spelling -----------------------------------------------------------------------------------


def spellings(form: Form, samples: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Statements of a form, each once. A placeholder that comes again takes its next sample.

    Raises KeyError for a placeholder without a sample.
    """
    seen: set[str] = set()
    for words in (_shortest(form), *_variants(form), _longest(form)):
        text = " ".join(_filled(words, samples))
        if text not in seen:
            seen.add(text)
            yield text


def _filled(words: Sequence[str], samples: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    used: Counter[str] = Counter()
    for word in words:
        if word[0].isalpha() and word.islower():
            texts = samples[word]
            yield texts[used[word] % len(texts)]
            used[word] += 1
        else:
            yield word


def _shortest(form: Form) -> list[str]:
    words: list[str] = []
    for element in form:
        match element:
            case Text(text):
                words.append(text)
            case Choice(parts, optional):
                words += [] if optional else _shortest(parts[0])
            case Again():
                pass
    return words


def _longest(form: Form) -> list[str]:
    words: list[str] = []
    for element in form:
        match element:
            case Text(text):
                words.append(text)
            case Choice(parts):
                words += max(map(_longest, parts), key=len)
            case Again(again, comma):
                words += [","] if comma else []
                words += _longest((again,))
    return words


def _variants(form: Form) -> Iterator[list[str]]:
    """Each part of the form, where all else is as short as can be."""
    for at, element in enumerate(form):
        before, after = _shortest(form[:at]), _shortest(form[at + 1 :])
        for middle in _inside(element):
            yield [*before, *middle, *after]


def _inside(element: Element) -> Iterator[list[str]]:
    match element:
        case Text():
            return
        case Choice(parts):
            for part in parts:
                yield _shortest(part)
                yield from _variants(part)
        case Again(again, comma):
            yield [*([","] if comma else []), *_shortest((again,))]
