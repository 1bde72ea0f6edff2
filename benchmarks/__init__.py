"""Benchmarks: one program per question, KalamDB and comparison stacks measured in the same run.

`http_sql` (writes and point reads), `live_fanout` (live queries), `recovery` (start after kill -9),
`cluster_sql` (three nodes: replicated writes, linearizable reads, failures);
`index_reads` measures KalamDB alone: a page of a thread among a million rows, with and without the
index.
Each is run as `python -m benchmarks.<name>`; README.md says what is compared, how fairly, and how
to read the numbers.

Invariants: every stack gets the same load generator, the same rows and the same number of
connections; every answer is checked, and a run with a wrong answer exits with status 1 whatever its
numbers are.
"""
