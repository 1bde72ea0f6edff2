"""The nouns of the system as frozen data, and their versioned bytes; no I/O."""
