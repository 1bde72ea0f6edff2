"""Many Raft groups on one pysyncobj core, one shared durable log, one link per pair of nodes.

What holds here (docs/decisions/0002-raft-on-pysyncobj.md has the reasons):

- Nothing produced in a cycle (vote, acknowledgement, entries) leaves before the log records of
  that cycle are on disk.
- Only committed entries that are on this node's disk are applied.
- An entry a follower has acknowledged is removed only by a conflicting entry of a later leader.
- Bytes of a peer are decoded by a typed msgpack decoder only; no pickle is reachable.

`audit` pins the library, `wal` and `disk` are the log file, `journal`, `core` and `guard` in
`transport` are the three seams of pysyncobj, `progress` is how far each follower is, `wire` the
messages, `group` the `Log` port, `hub` the cycle, `driver` its asyncio legs.
"""
