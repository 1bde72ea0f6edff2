"""The Python client: statements over HTTP and live queries over WebSocket."""
