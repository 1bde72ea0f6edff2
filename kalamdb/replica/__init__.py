"""One group on one node: store, machine and hub together, with its writer and reader."""
