"""WebSocket edge: live queries at /v1/ws.

Owns the messages (`protocol`), the frames (`frames`), what goes out of a socket (`outbox`) and what
comes in (`connection`). A frame of a live event is made once for all sockets that want the same
bytes, and the frames of a tick leave a socket in one write.
"""
