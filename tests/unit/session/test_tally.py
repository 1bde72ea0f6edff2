"""Totals of a batch leave out what was rolled back."""

from __future__ import annotations

import orjson
import pytest

from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq
from kalamdb.session.run import Affected
from kalamdb.session.tally import Tally
from kalamdb.sql.parse import parse

CASES = {
    "+1 +2": 3,
    "BEGIN; +1; ROLLBACK; +2": 2,
    "+4; BEGIN; +1; ROLLBACK": 4,
    "BEGIN; +1; COMMIT; BEGIN; +2; ROLLBACK": 1,
    "BEGIN; +1; SAVEPOINT a; +2; ROLLBACK TO a; +4; COMMIT": 5,
    "BEGIN; +1; SAVEPOINT a; +2; SAVEPOINT a; +4; ROLLBACK TO a; COMMIT": 3,
    "BEGIN; SAVEPOINT a; +1; SAVEPOINT b; +2; RELEASE a; +4; ROLLBACK": 0,
    "BEGIN; SAVEPOINT a; +1; SAVEPOINT b; +2; RELEASE b; +4; ROLLBACK TO a; COMMIT": 0,
    "+1; ROLLBACK TO of_an_earlier_request; +2": 2,
    "+1; SAVEPOINT a; +2; ROLLBACK": 0,
}


@pytest.mark.parametrize("script", CASES)
def test_totals(script: str) -> None:
    tally = Tally()
    for step in script.replace(" +", "; +").split(";"):
        word = step.strip()
        if word.startswith("+"):
            tally.add(Affected("Inserted", Outcome(int(word), Seq(1))))
        elif word:
            (statement,) = parse(word)
            tally.follow(statement)
    counts = [orjson.loads(result)["row_count"] for result in tally.results("ann")]
    assert sum(counts) == CASES[script]
