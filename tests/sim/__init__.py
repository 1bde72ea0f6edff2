"""Deterministic simulation: three members in one thread, one seed is one run (`run.replay`)."""
