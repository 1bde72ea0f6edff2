"""Rows, indexes, catalog and change log of one node on disk; snapshots over them."""
