"""What exists only because there are other nodes: Raft groups, placement, node-to-node calls,
routing.

`cluster` imports `kalamdb`; `kalamdb` never imports `cluster`. A single node is a cluster of one
member, so everything here also runs there.
"""
