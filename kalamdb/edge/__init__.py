"""Bytes to requests and results to bytes; errors become what a client may see."""
