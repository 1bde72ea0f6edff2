"""Judges of a run: each takes what was seen and the committed log, knows nothing of the
workload.
"""
