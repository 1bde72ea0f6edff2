"""Real processes, real sockets: what a stranger would see."""
