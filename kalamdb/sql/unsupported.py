# pyright: basic
"""Statements other databases (or the plan of this one) have: refused by name, with what to do
instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from kalamdb.errors import Unsupported
from kalamdb.sql.reader import Reader

_SNAPSHOTS = "every transaction is snapshot isolation"
_NO_FLUSH = "rows stay in the hot store"
_NO_TOPICS = "subscribe to a table instead"

STATEMENTS: Mapping[str, str] = {
    "TRUNCATE": "write DELETE FROM table WHERE true",
    "MERGE": "write INSERT … ON CONFLICT … DO UPDATE",
    "REPLACE": "write INSERT … ON CONFLICT … DO UPDATE",
    "UPSERT": "write INSERT … ON CONFLICT … DO UPDATE",
    "COPY": "INSERT takes many rows and parameters",
    "LOAD": "INSERT takes many rows and parameters",
    "IMPORT": "INSERT takes many rows and parameters",
    "EXPORT": "SELECT the rows",
    "BACKUP": "stop the server and copy its data directory",
    "RESTORE": "stop the server and put the data directory back",
    "STORAGE": _NO_FLUSH,
    "CONSUME": _NO_TOPICS,
    "ACK": _NO_TOPICS,
    "GRANT": "rights follow from the user's role and the table's ACCESS_LEVEL",
    "REVOKE": "rights follow from the user's role and the table's ACCESS_LEVEL",
    "ANALYZE": "there are no statistics to gather",
    "VACUUM": "space is reclaimed without it",
    "REINDEX": "indexes are always current",
    "REFRESH": "there are no materialized views",
    "CALL": "there are no procedures",
    "DO": "there are no procedures",
    "PREPARE": "send $1, $2, … with params; repeated texts are prepared",
    "DEALLOCATE": "send $1, $2, … with params; repeated texts are prepared",
    "DECLARE": "there are no cursors; use LIMIT and a key",
    "FETCH": "there are no cursors; use LIMIT and a key",
    "CLOSE": "there are no cursors; use LIMIT and a key",
    "LISTEN": "subscribe to a table instead",
    "NOTIFY": "subscribe to a table instead",
    "UNLISTEN": "subscribe to a table instead",
    "UNSUBSCRIBE": "end the subscription on its WebSocket",
    "LOCK": "there are no locks; COMMIT fails when another write came between",
    "COMMENT": "tables have no comments",
    "RESET": "SET holds for one request",
    "DISCARD": "requests keep no state",
    "TABLE": "write SELECT * FROM table",
    "FROM": "write SELECT * FROM table",
    "ATTACH": "all tables are in this database",
    "DETACH": "all tables are in this database",
    "PRAGMA": "settings are in the configuration file",
    "CHECKPOINT": "the server keeps its own",
    "CACHE": "the server keeps its own",
    "UNCACHE": "the server keeps its own",
    "SECURITY": "",
    "REASSIGN": "",
    "RENAME": "create a new table and INSERT … SELECT",
}

_NO_VECTORS = "order by the distance; it looks at every vector"
_NO_VIEW = "write CREATE VIEW: it is read anew each time"
_NAMESPACE = "schemas are namespaces: write NAMESPACE"

CREATES: Mapping[str, str] = {
    "VECTOR": _NO_VECTORS,
    "MATERIALIZED": _NO_VIEW,
    "TEMP": "every table is permanent; a STREAM table forgets by TTL_SECONDS",
    "TEMPORARY": "every table is permanent; a STREAM table forgets by TTL_SECONDS",
    "UNLOGGED": "every table is permanent; a STREAM table forgets by TTL_SECONDS",
    "EXTERNAL": "INSERT the rows",
    "FOREIGN": "INSERT the rows",
    "GLOBAL": "write CREATE TABLE",
    "LOCAL": "write CREATE TABLE",
    "SCHEMA": _NAMESPACE,
    "DATABASE": _NAMESPACE,
    "STORAGE": "there is one storage, local",
    "TOPIC": _NO_TOPICS,
    "TYPE": "use TEXT with a CHECK, or JSON",
    "DOMAIN": "use a CHECK",
    "FUNCTION": "there are no procedures",
    "PROCEDURE": "there are no procedures",
    "AGGREGATE": "there are no procedures",
    "TRIGGER": "subscribe to the table instead",
    "RULE": "subscribe to the table instead",
    "EVENT": "subscribe to the table instead",
    "SCHEDULE": "use a scheduler of your own",
    "POLICY": "rows of USER tables belong to their user; see ACCESS_LEVEL",
    "ROLE": "write CREATE USER … ROLE role",
    "GROUP": "write CREATE USER … ROLE role",
    "SEQUENCE": "write DEFAULT SNOWFLAKE_ID()",
    "EXTENSION": "there are no extensions",
    "PUBLICATION": "subscribe to the table instead",
    "SUBSCRIPTION": "subscribe to the table instead",
    "SERVER": "",
    "TABLESPACE": "there is one storage, local",
    "MACRO": "there are no procedures",
    "SECRET": "",
    "STATISTICS": "there are no statistics to gather",
    "COLLATION": "texts are compared by code points",
    "CAST": "",
    "OPERATOR": "",
}

DROPS: Mapping[str, str] = CREATES

ALTERS: Mapping[str, str] = {
    "DATABASE": _NAMESPACE,
    "STORAGE": "there is one storage, local",
    "ROLE": "write ALTER USER name SET ROLE role",
    "TOPIC": _NO_TOPICS,
    "VIEW": "write CREATE OR REPLACE VIEW",
    "INDEX": "drop it and create another",
    "TYPE": "",
    "SEQUENCE": "",
    "SYSTEM": "settings are in the configuration file",
    "SCHEDULE": "",
    "POLICY": "",
    "FUNCTION": "",
    "USER": "",
}

SHOWS: Mapping[str, str] = {
    "STORAGES": "there is one storage, local",
    "MANIFEST": _NO_FLUSH,
    "EXPORT": "SELECT the rows",
    "FUNCTIONS": "see the list of functions in the SQL reference",
    "GRANTS": "rights follow from the user's role and the table's ACCESS_LEVEL",
    "VARIABLES": "settings are in the configuration file",
    "SEARCH_PATH": "the namespace is a field of the request",
    "SERVER_VERSION": "GET /v1/api/healthcheck names the version",
    "TRANSACTION": _SNAPSHOTS,
    "TIME": "times are UTC",
    "TIMEZONE": "times are UTC",
    "TOPICS": _NO_TOPICS,
    "JOBS": "",
}

_CAST = "write CAST(x AS type)"

FUNCTIONS: Mapping[str, str | None] = {
    "arrow_cast": _CAST,
    "arrow_try_cast": _CAST,
    "cast_to_type": _CAST,
    "try_cast_to_type": _CAST,
    "arrow_typeof": "results name the types of their columns",
    "arrow_field": "results name the types of their columns",
    "arrow_metadata": None,
    "with_metadata": None,
    "file_row_index": None,
    "input_file_name": None,
    "union_extract": None,
    "union_tag": None,
}
"""Functions of the query engine that speak of its own types and files."""

_PAIRS = {("VECTOR", "INDEX"), ("OR", "REPLACE")}
_FIRST_OF_TWO = {
    "STORAGE",
    "BACKUP",
    "RESTORE",
    "START",
    "EXPORT",
    "REFRESH",
    "SHOW",
}


def refuse_named(reader: Reader, known: Mapping[str, str]) -> None:
    """Raise Unsupported when the next word is in `known`; the construct is named by its first
    words.
    """
    hint = known.get(reader.word())
    if hint is None:
        return
    words = [reader.word(ahead) for ahead in range(-reader.at, 0)]
    words.append(reader.word())
    following = reader.word(1)
    first_of_two = reader.at == 0 and reader.word() in _FIRST_OF_TWO
    if first_of_two or (reader.word(), following) in _PAIRS:
        words.append(following)
    raise Unsupported(" ".join(word for word in words if word), hint or None)
