"""Single requests outside the measured load: set-up calls, health probes; and request templates.

Blocking and plain on purpose: nothing here is on a measured path.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from benchmarks.load import body_start
from benchmarks.stacks.stack import StackError


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and decoded JSON body of a set-up request."""

    status: int
    body: object
    text: str

    def text_of(self, *path: str) -> str:
        """The string at `path` of nested objects. Raises StackError when it is not there."""
        value = self.body
        for key in path:
            if not isinstance(value, dict) or key not in value:
                raise StackError(f"no {'.'.join(path)} in answer {self.status}: {self.text[:300]}")
            value = value[key]  # pyright: ignore[reportUnknownVariableType]
        return str(value)  # pyright: ignore[reportUnknownArgumentType]


def call(
    port: int,
    path: str,
    body: object | None = None,
    *,
    method: str = "",
    token: str = "",
    expect: int | None = 200,
) -> Answer:
    """One set-up request. Raises StackError when the status is not `expect`, OSError unheard."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else orjson.dumps(body)
    verb = method or ("GET" if body is None else "POST")
    try:
        connection.request(verb, path, data, headers)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if expect is not None and response.status != expect:
        raise StackError(f"{verb} {path} answered {response.status}: {text[:500]!r}")
    try:
        decoded: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        decoded = None
    return Answer(status=response.status, body=decoded, text=text.decode("utf-8", "replace"))


def exchange(port: int, request: str) -> bytes:
    """Send a request made by `request_template`; head and body of the answer, b"" without one."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request.encode())
            while body_start(answer) < 0:
                part = connection.recv(65536)
                if not part:
                    return b""
                answer += part
    except OSError:
        return b""
    return answer


def answers(port: int, path: str) -> bool:
    """Whether GET `path` is answered with 200 now."""
    try:
        return call(port, path, expect=None).status == 200
    except (OSError, http.client.HTTPException):
        return False


def request_template(
    method: str, path: str, body: str = "", *, headers: Mapping[str, str] | None = None
) -> str:
    """An HTTP/1.1 request as text, with its Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return "\r\n".join(lines) + "\r\n\r\n" + body
