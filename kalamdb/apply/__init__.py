"""Puts the effects of committed entries into the store; it reads nothing and does not raise."""
