"""What operators see of a statement."""

from __future__ import annotations

import pytest

from kalamdb.sql.redact import LENGTH_MAX, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT 'it''s', -5.2, x'00'", "SELECT ?, -?, ?"),
        ("SELECT a FROM t -- my secret\n WHERE b=$1", "SELECT a FROM t WHERE b=$1"),
        ("INSERT INTO t VALUES (1,'a'),(2,'b')", "INSERT INTO t VALUES (?,?),(?,?)"),
        ('SELECT "Name 7" FROM t /* 9 */', 'SELECT "Name 7" FROM t'),
        ("EXECUTE AS 'bob' (SELECT 1)", "EXECUTE AS ? (SELECT ?)"),
    ],
)
def test_literals_and_comments_are_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_long_texts_are_cut_before_anything_shows() -> None:
    assert len(redacted("SELECT " + ", ".join(["abc"] * 90_000))) == LENGTH_MAX + 1
    secret = "secret " * 90_000
    assert "secret" not in redacted(f"SELECT '{secret}'")
