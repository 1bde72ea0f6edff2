"""`kalam`, the command line."""
