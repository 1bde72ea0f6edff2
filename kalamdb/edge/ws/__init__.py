"""The WebSocket edge: frames as data, and the connection that carries them."""
