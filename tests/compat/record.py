"""Adds what this release newly writes to the frozen bytes: `python -m tests.compat.record`.

With `--data` it also records a small data directory of this release, unless there is one already.
Nothing that was frozen is ever written again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.compat.case import BYTES, Case, freeze
from tests.compat.key_cases import family_cases, value_cases
from tests.compat.log_cases import directory_files, format_cases
from tests.compat.record_cases import catalog_cases, log_cases, name_cases, staged_cases

THEMES = {
    "families": family_cases,
    "values": value_cases,
    "records": log_cases,
    "staged": staged_cases,
    "catalog": catalog_cases,
    "names": name_cases,
    "log": format_cases,
}


def freeze_all() -> list[str]:
    """The names that were added."""
    BYTES.mkdir(exist_ok=True)
    added = [name for theme, cases in THEMES.items() for name in freeze(theme, cases())]
    with tempfile.TemporaryDirectory() as folder:
        files = directory_files(Path(folder) / "data")
    added += freeze("directory", [Case(name, raw, None, json.loads) for name, raw in files.items()])
    return added


if __name__ == "__main__":
    for added in freeze_all():
        print(added)
    if "--data" in sys.argv:
        from tests.compat.recorded import record

        print(record())
