"""KalamDB on one node: types, SQL, storage, query, change feed, edges. Never imports `cluster`."""

VERSION = "0.3.0"
