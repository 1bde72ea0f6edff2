"""Puts the effects of committed entries into the store, on every member alike.

Keeps: it reads no row, clock or environment (I2) and does not raise (I3); an entry takes effect
once (I4).
"""
