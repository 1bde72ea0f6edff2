"""Requests between nodes: messages, links and their limits."""
