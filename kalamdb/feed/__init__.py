"""Live queries: predicates, subscriptions and fan-out of change batches."""
