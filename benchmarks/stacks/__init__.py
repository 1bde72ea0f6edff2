"""The stacks that are compared, behind one small interface.

A stack is a set of server processes on free loopback ports with its data in one directory. Life of
a stack: `prepare` (once per directory) → `launch` → wait until `ready` → `setup` (schema, user,
token) → requests and live subscriptions → `stop`; `kill` sends SIGKILL to all its processes, after
which `launch` may follow again.

Every stack stores the same rows: id, author, body of about 100 characters, score; owned by one
tenant.
"""
