# pyright: basic
"""WITH (…) of CREATE TABLE and SET (…) of ALTER TABLE: which options a kind of table has, and what
their values may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.model.table import AccessLevel, FlushPolicy, TableKind, TableOptions
from kalamdb.sql.create_table import KIND_WORDS, TableSyntax

TTL_MAX_S = 10 * 365 * 86_400
FLUSH_ROWS_MAX = 999_999
FLUSH_INTERVAL_MAX_S = 86_399
HISTORY_MAX_H = 24 * 3650
COMPRESSIONS = ("none", "snappy", "zstd")
_STORAGE = re.compile(r"[A-Za-z0-9_-]+")
_ROWS_KINDS = frozenset((TableKind.USER, TableKind.SHARED))


def read_options(syntax: TableSyntax) -> tuple[TableKind, TableOptions]:
    """The kind of table and its options. Raises InvalidDefinition, Unsupported."""
    given = dict(syntax.options)
    kind = _kind(syntax.kind, given.pop("TYPE", None))
    options = changed_options(kind, TableOptions(), given)
    if kind is TableKind.STREAM and options.ttl_s is None:
        raise InvalidDefinition("a STREAM table needs WITH (TTL_SECONDS = n)")
    return kind, options


def changed_options(
    kind: TableKind, options: TableOptions, given: Mapping[str, Any]
) -> TableOptions:
    """`options` with those given. Raises InvalidDefinition, Unsupported."""
    for key, value in given.items():
        option = OPTIONS.get(key)
        if option is None:
            known = ", ".join(sorted(OPTIONS))
            raise InvalidDefinition(f"option {key} is unknown; there are TYPE, {known}")
        kinds, read = option
        if kind not in kinds:
            raise InvalidDefinition(f"option {key} is not for {kind.name} tables")
        options = replace(options, **read(key, value))
    return options


def _kind(word: TableKind | None, option: Any) -> TableKind:
    if option is None:
        return word or TableKind.SHARED
    found = KIND_WORDS.get(option.upper()) if isinstance(option, str) else None
    if found is None:
        raise InvalidDefinition("option TYPE is USER, SHARED or STREAM")
    if word not in (None, found):
        raise InvalidDefinition(f"CREATE {word.name} TABLE has TYPE {found.name}")
    return found


def _whole(key: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise InvalidDefinition(f"option {key} is a whole number from {low} to {high}")
    return value


def _word(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if isinstance(value, str) and value.lower() in allowed:
        return value.lower()
    raise InvalidDefinition(f"option {key} is one of {', '.join(allowed)}")


def _ttl(key: str, value: Any) -> dict[str, Any]:
    return {"ttl_s": _whole(key, value, 1, TTL_MAX_S)}


def _storage(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, str) or not _STORAGE.fullmatch(value):
        raise InvalidDefinition(f"option {key} is the name of a storage")
    if value != "local":
        raise InvalidDefinition(f"storage {value} does not exist; there is local")
    return {"storage_id": value}


def _user_storage(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if not isinstance(value, bool):
        raise InvalidDefinition(f"option {key} is TRUE or FALSE")
    return {"use_user_storage": value}


def _access(key: str, value: Any) -> dict[str, Any]:
    word = _word(key, value, tuple(level.value.lower() for level in AccessLevel))
    return {"access_level": AccessLevel(word.capitalize())}


def _flush(key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {"flush_policy": None}
    parts: dict[str, int] = {}
    for part in str(value).split(","):
        name, colon, number = part.strip().partition(":")
        limit = {"rows": FLUSH_ROWS_MAX, "interval": FLUSH_INTERVAL_MAX_S}.get(name.strip().lower())
        if not colon or limit is None or name.strip().lower() in parts:
            raise InvalidDefinition(
                f"option {key} is 'rows:N', 'interval:N' or 'rows:N,interval:N'"
            )
        parts[name.strip().lower()] = _whole(f"{key} {name.strip()}", number.strip(), 1, limit)
    return {"flush_policy": FlushPolicy(parts.get("rows"), parts.get("interval"))}


def _compression(key: str, value: Any) -> dict[str, Any]:
    return {"compression": _word(key, value, COMPRESSIONS)}


def _history(key: str, value: Any) -> dict[str, Any]:
    return {"history_full": _word(key, value, ("full", "default")) == "full"}


def _history_hours(key: str, value: Any) -> dict[str, Any]:
    return {"history_retention_h": None if value is None else _whole(key, value, 1, HISTORY_MAX_H)}


def _eviction(key: str, value: Any) -> dict[str, Any]:
    if _word(key, value, ("time_based", "size_based", "hybrid")) != "time_based":
        raise Unsupported(f"{key} = '{value}'", "rows leave by TTL_SECONDS")
    return {}


def _stream_size(key: str, value: Any) -> dict[str, Any]:
    if _whole(key, value, 0, 1 << 62):
        raise Unsupported(f"{key} above 0", "rows leave by TTL_SECONDS")
    return {}


def _deleted_retention(key: str, value: Any) -> dict[str, Any]:
    raise Unsupported(f"option {key}", "deleted rows are kept by HISTORY_RETENTION_HOURS")


_ALL = frozenset(TableKind)
_STREAM = frozenset((TableKind.STREAM,))
OPTIONS: dict[str, tuple[frozenset[TableKind], Callable[[str, Any], dict[str, Any]]]] = {
    "STORAGE_ID": (_ROWS_KINDS, _storage),
    "USE_USER_STORAGE": (frozenset((TableKind.USER,)), _user_storage),
    "FLUSH_POLICY": (_ROWS_KINDS, _flush),
    "ACCESS_LEVEL": (frozenset((TableKind.SHARED,)), _access),
    "TTL_SECONDS": (_STREAM, _ttl),
    "COMPRESSION": (_ROWS_KINDS, _compression),
    "EVICTION_STRATEGY": (_STREAM, _eviction),
    "MAX_STREAM_SIZE_BYTES": (_STREAM, _stream_size),
    "HISTORY": (_ROWS_KINDS, _history),
    "HISTORY_RETENTION_HOURS": (_ROWS_KINDS, _history_hours),
    "DELETED_RETENTION_HOURS": (_ALL, _deleted_retention),
}
