"""Conversations as rows: a loader of Schema-Guided-Dialogue JSON files and a small generated set.

Each dialogue belongs to a user of its own, each turn is a row of `chat.messages`, each service call
a row of `agent.tool_calls`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class ToolCall:
    turn: int
    method: str
    parameters: str  # JSON
    results: str  # JSON


@dataclass(frozen=True, slots=True)
class Turn:
    number: int
    role: str  # user | assistant
    body: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One dialogue. `user` is its tenant."""

    user: str
    thread: str
    turns: tuple[Turn, ...]
    calls: tuple[ToolCall, ...]


class NotDialogues(ValueError):
    """The file is not a JSON array of dialogues."""


def load(paths: Sequence[Path]) -> list[Conversation]:
    """Read Schema-Guided-Dialogue files (`dialogues_*.json`), or folders of them.

    Raises: NotDialogues naming the file; OSError when it cannot be read.
    """
    found: list[Conversation] = []
    for path in _files(paths):
        try:
            dialogues = orjson.loads(path.read_bytes())
            found.extend(_conversation(dialogue) for dialogue in dialogues)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise NotDialogues(f"{path} is no array of dialogues: {error!r}") from error
    return found


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.glob("dialogues_*.json"))
        else:
            yield path


def _conversation(dialogue: Mapping[str, Any]) -> Conversation:
    thread = str(dialogue["dialogue_id"])
    turns: list[Turn] = []
    calls: list[ToolCall] = []
    for number, turn in enumerate(dialogue["turns"], 1):
        role = "user" if turn["speaker"] == "USER" else "assistant"
        turns.append(Turn(number, role, str(turn["utterance"])))
        for frame in turn["frames"]:
            call = frame.get("service_call")
            if call is not None:
                parameters = orjson.dumps(call["parameters"]).decode()
                results = orjson.dumps(frame.get("service_results", [])).decode()
                calls.append(ToolCall(number, str(call["method"]), parameters, results))
    return Conversation(f"user-{thread}", thread, tuple(turns), tuple(calls))


_PLACES = ("Amman", "Cairo", "Fez", "Muscat", "Tunis", "Doha", "Aden", "Beirut")
_DISHES = ("mansaf", "koshari", "tagine", "shuwa", "couscous", "machboos", "saltah", "tabbouleh")


def generated(count: int = 60) -> list[Conversation]:
    """A fixed set of small conversations, for when no files are given."""
    made: list[Conversation] = []
    for number in range(count):
        place, dish = _PLACES[number % 8], _DISHES[number * 3 % 8]
        seats = 2 + number % 5
        lines = (
            f"I want to eat {dish} in {place} tonight.",
            "For how many people, and at what time?",
            f"For {seats}, at half past seven.",
            f"The {place} Kitchen has a table for {seats} at 19:30. Shall I take it?",
            "Yes, please.",
            "It is booked. They know you are coming.",
            "Is it far from the old town?",
            f"{3 + number % 9} minutes on foot.",
        )
        turns = tuple(
            Turn(index, "user" if index % 2 else "assistant", line)
            for index, line in enumerate(lines, 1)
        )
        parameters = orjson.dumps({"city": place, "cuisine": dish, "seats": seats}).decode()
        found = orjson.dumps([{"restaurant": f"{place} Kitchen", "time": "19:30"}]).decode()
        calls = (
            ToolCall(4, "FindRestaurants", parameters, found),
            ToolCall(6, "ReserveRestaurant", parameters, found),
        )
        thread = f"demo-{number:04d}"
        made.append(Conversation(f"user-{thread}", thread, turns, calls))
    return made
