"""Text to statement and back; the only package that reads SQL text or imports sqlglot."""
