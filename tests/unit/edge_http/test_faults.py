"""The table of faults: whole, and the same as its page."""

from __future__ import annotations

import re
from pathlib import Path

from kalamdb import errors
from kalamdb.edge import faults
from kalamdb.errors import KalamError
from kalamdb.model.principal import Principal, Role
from tests.tidy.documents import error_classes

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "errors.md"
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \| (\w+) \| `(\w+)` \| (.+) \|$", re.MULTILINE)


def test_every_class_has_a_row_of_its_own() -> None:
    named = {kind.__name__ for kind in faults.FAULTS}
    assert named == {"KalamError", *error_classes(KalamError)}


def test_the_page_says_the_same() -> None:
    rows = {row[0]: row[1:5] for row in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    for kind, fault in faults.FAULTS.items():
        if kind in (KalamError, errors.SchemaChanged):
            continue
        told = (str(fault.status), fault.code, fault.sqlstate, fault.websocket)
        assert rows.pop(kind.__name__, None) == told, kind.__name__
    assert not rows


def test_only_one_status_leaves_the_outcome_open() -> None:
    unknown = [kind for kind, fault in faults.FAULTS.items() if fault.status == 504]
    assert unknown == [errors.Indeterminate]


def test_503_is_surely_not_done_and_says_when_to_retry() -> None:
    for kind, fault in faults.FAULTS.items():
        assert (fault.status == 503) is issubclass(kind, errors.Unavailable)
    assert faults.retry_after_s(errors.DiskFull(1, 2)) == 30
    assert faults.retry_after_s(errors.AccountLocked(900)) == 900


def test_half_a_surrogate_pair_in_a_message() -> None:
    error = errors.UnknownTable("chat.\ud800")
    body = faults.envelope(error, 1.0, Principal.of("dora", Role.DBA), "SELECT \ud800")
    assert rb"chat.\\ud800" in body
