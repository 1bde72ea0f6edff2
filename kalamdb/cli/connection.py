"""One signed-in connection of the terminal to a node: statements and live queries. Stores nothing.

Keeps: a failure is a `Refused` that says what the server said, with the exit code of its kind.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

EXIT_REFUSED = 1  # the statement is wrong or not permitted
EXIT_NOT_SIGNED_IN = 3
EXIT_UNAVAILABLE = 4  # surely not done; try again
EXIT_UNKNOWN = 5  # may be done; repeat it with the same --request-id

_EXIT_BY_STATUS = {401: EXIT_NOT_SIGNED_IN, 428: EXIT_NOT_SIGNED_IN, 504: EXIT_UNKNOWN} | {
    429: EXIT_UNAVAILABLE,
    502: EXIT_UNAVAILABLE,
    503: EXIT_UNAVAILABLE,
}


class Refused(Exception):
    """The server, or the way to it, said no."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Login:
    """Where, and as whom: a token, else a user with a password."""

    url: str
    token: str | None = None
    user: str | None = None
    password: str | None = None
    timeout_s: float = 60.0


class Connection:
    """Made by `connected`."""

    def __init__(self, http: aiohttp.ClientSession, token: str) -> None:
        self._http = http
        self._token = token

    async def execute(
        self,
        statement: str,
        params: list[Any] | None,
        namespace: str | None,
        request_id: str | None,
    ) -> list[dict[str, Any]]:
        """The results of a request. Raises Refused."""
        body: dict[str, Any] = {"sql": statement}
        if params is not None:
            body["params"] = params
        if namespace is not None:
            body["namespace_id"] = namespace
        if request_id is not None:
            body["request_id"] = request_id
        answer = await _post(self._http, "/v1/api/sql", body, self._token)
        return answer["results"]

    async def live(
        self, query: str, last_rows: int | None, resume_from: str | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Messages of a live query, for ever. Raises Refused."""
        options: dict[str, Any] = {}
        if last_rows is not None:
            options["last_rows"] = last_rows
        if resume_from is not None:
            options["from_seq_id"] = resume_from
        subscription = {"id": "terminal", "sql": query, "options": options}
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._http.ws_connect("/v1/ws", headers=headers, heartbeat=4.0) as socket:
            await socket.send_json({"type": "subscribe", "subscription": subscription})
            async for frame in socket:
                message = _decoded(frame)
                match message.get("type"):
                    case "error" | "auth_error":
                        code = message.get("code", "AUTH_ERROR")
                        raise Refused(f"{code}: {message.get('message')}", EXIT_REFUSED)
                    case "initial_data_batch" if message["batch_control"]["has_more"]:
                        yield message
                        last = message["batch_control"]["last_seq_id"]
                        await socket.send_json(
                            {
                                "type": "next_batch",
                                "subscription_id": "terminal",
                                "last_seq_id": last,
                            }
                        )
                    case _:
                        yield message
            raise Refused(
                f"the server closed the connection ({socket.close_code})", EXIT_UNAVAILABLE
            )


@asynccontextmanager
async def connected(login: Login) -> AsyncGenerator[Connection, None]:
    """Sign in, unless a token is given. Raises Refused."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=login.timeout_s)
    try:
        async with aiohttp.ClientSession(login.url, timeout=timeout) as http:
            token = login.token
            if token is None:
                body = {"user": login.user, "password": login.password}
                token = (await _post(http, "/v1/api/auth/login", body, None))["access_token"]
            yield Connection(http, token)
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise Refused(f"{login.url} does not answer: {reason}", EXIT_UNAVAILABLE) from error


async def _post(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], token: str | None
) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with http.post(path, data=orjson.dumps(body), headers=headers) as response:
        raw = await response.read()
        try:
            answer: dict[str, Any] = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            text = f"{path} answered {response.status} and no JSON"
            raise Refused(text, EXIT_UNAVAILABLE) from error
        if response.status == 200:
            return answer
        raise Refused(_said(answer), _EXIT_BY_STATUS.get(response.status, EXIT_REFUSED))


def _said(answer: dict[str, Any]) -> str:
    told = answer.get("error")
    if isinstance(told, dict):
        return f"{told['code']}: {told['message']}"
    return f"{told}: {answer.get('message')}"


def _decoded(frame: aiohttp.WSMessage) -> dict[str, Any]:
    if frame.type is aiohttp.WSMsgType.ERROR:
        raise Refused(f"the connection broke: {frame.data}", EXIT_UNAVAILABLE)
    if frame.type is aiohttp.WSMsgType.BINARY:
        return orjson.loads(gzip.decompress(frame.data))
    return orjson.loads(frame.data)
