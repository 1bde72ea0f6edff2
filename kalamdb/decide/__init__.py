"""On the leader: the one synchronous place where writes are decided into effects."""
