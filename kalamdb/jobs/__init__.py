"""Background work of a node: expiry, trimming, emptying; each step decided like any other write."""
