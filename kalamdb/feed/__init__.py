"""The change feed of groups: live queries from snapshot over catch-up to live, without a gap.

Owns `Hub` (fan-out of one group's changes), `Subscription` (one live query) and the JSON of change
events. Keeps I8: a subscriber gets the seqs of its chain in order, each at most once; what cannot
be replayed is CursorExpired, never a skip. Nothing here waits, reads a clock by itself or knows a
socket.
"""
