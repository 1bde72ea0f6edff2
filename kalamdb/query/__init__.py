"""Reads of a snapshot: by key without an engine, everything else through DataFusion."""
