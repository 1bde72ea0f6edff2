"""Rows, change log and catalog of one node on disk; snapshots over them; recovery of the data
directory.

Keeps: a group's effects and its mark are one batch (I4); what a crash leaves is a prefix of the
batches written; every data key carries group, incarnation, table and partition (I9).
"""
