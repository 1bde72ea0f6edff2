"""Rules that tie documents to code, as functions of plain data that return what they found."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator

RECORD_NAME = re.compile(r"^(\d{4})-[a-z0-9]+(?:-[a-z0-9]+)*\.md$")

# Errors that a caller never sees, so that no page explains them, each with the reason.
INTERNAL_ERRORS = {"SchemaChanged": "the server binds again by itself"}


def decision_records(names: Iterable[str]) -> Iterator[str]:
    """Records are `NNNN-words.md`, each number once, from 0001 without a hole, and a README.md."""
    taken: dict[int, str] = {}
    for name in sorted(names):
        if name == "README.md":
            continue
        found = RECORD_NAME.match(name)
        if found is None:
            yield f"docs/decisions/{name}: a decision record is named NNNN-words-like-this.md"
            continue
        number = int(found[1])
        if number in taken:
            yield f"docs/decisions/{name}: {taken[number]} has its number"
        taken[number] = name
    for number in range(1, max(taken, default=0)):
        if number not in taken:
            yield f"docs/decisions: there is no record {number:04}"


def public_classes(text: str) -> list[str]:
    return [
        node.name
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def missing_words(words: Iterable[str], page: str, where: str) -> Iterator[str]:
    """Which `words` do not stand as whole words in `page`?"""
    for word in words:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", page) is None:
            yield f"{where}: nothing on {word}"


def names_used(text: str) -> set[str]:
    """Names and attributes a module's code uses; comments, strings and imports do not count."""
    nodes = list(ast.walk(ast.parse(text)))
    plain = {node.id for node in nodes if isinstance(node, ast.Name)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def error_classes(root: type[Exception]) -> list[str]:
    """Every class below `root`, depth first; `root` itself is never raised."""
    names: list[str] = []
    for child in root.__subclasses__():
        if child.__name__ not in names:
            names += [child.__name__, *error_classes(child)]
    return names


def undocumented_settings(settings: type, path: str = "") -> Iterator[str]:
    """Fields of a settings tree without a text in `metadata["doc"]`, and numbers without a unit.

    A number tells its unit in `metadata["unit"]`. A field that is a dataclass is a branch: its own
    fields count.
    """
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        name = f"{path}{field.name}"
        kind = hints[field.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from undocumented_settings(kind, f"{name}.")
            continue
        if not str(field.metadata.get("doc") or "").strip():
            yield f"setting {name} has no doc"
        numbers = {int, float} & {kind, *typing.get_args(kind)}
        if numbers and not str(field.metadata.get("unit") or "").strip():
            yield f"setting {name} is a number without a unit"
