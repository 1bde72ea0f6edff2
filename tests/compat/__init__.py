"""Bytes of every release that stay readable for ever."""
