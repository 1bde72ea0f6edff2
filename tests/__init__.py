"""The tests. `python -m tests` is the quick gate; `python -m tests --help` tells the rest."""
