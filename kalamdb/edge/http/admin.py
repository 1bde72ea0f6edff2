"""Health for probes, metrics and the state of groups for operators.

Health answers any caller with one word and a reason. Everything else needs a caller from this
machine or a token of role dba.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from aiohttp import web

from kalamdb import VERSION
from kalamdb.edge import faults
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.replies import TEXT_HEADERS, reply
from kalamdb.edge.http.sql import Authenticates
from kalamdb.errors import KalamError, PermissionDenied
from kalamdb.lib.observe import Metrics
from kalamdb.model.principal import Role
from kalamdb.ports import LogStatus
from kalamdb.session.auth import when_keys_are_there

API_VERSION = "v1"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Can this node serve? `reason` says why not ("starting", "no leader for groups 3, 5").

    `degraded` names what does not work while the node serves ("disk full: writes are refused").
    """

    serves: bool
    reason: str = ""
    degraded: str = ""


class NodeView(Protocol):
    """What the node tells of itself."""

    def status(self) -> NodeStatus: ...

    def digests(self) -> Mapping[int, str]:
        """Group → digest of its logical state, with the applied index in it."""
        ...

    def logs(self) -> Sequence[LogStatus]: ...


class AdminEdge:
    """The handlers, by route."""

    def __init__(
        self, auth: Authenticates, node: NodeView, metrics: Metrics, origins: Origins
    ) -> None:
        self._auth = auth
        self._node = node
        self._metrics = metrics
        self._origins = origins

    async def health(self, request: web.Request) -> web.Response:
        status = self._node.status()
        body = {"status": "healthy", "version": VERSION, "api_version": API_VERSION}
        if not status.serves:
            body |= {"status": "unhealthy", "reason": status.reason}
        elif status.degraded:
            body |= {"status": "degraded", "reason": status.degraded}
        return reply(body, 200 if status.serves else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        return await self._for_operators(
            request, lambda: web.Response(body=self._metrics.render(), headers=TEXT_HEADERS)
        )

    async def digest(self, request: web.Request) -> web.Response:
        return await self._for_operators(
            request,
            lambda: reply(
                {"groups": {str(group): digest for group, digest in self._node.digests().items()}}
            ),
        )

    async def raft(self, request: web.Request) -> web.Response:
        return await self._for_operators(
            request, lambda: reply({"groups": [asdict(log) for log in self._node.logs()]})
        )

    async def _for_operators(
        self, request: web.Request, answer: Callable[[], web.Response]
    ) -> web.Response:
        header = request.headers.get("Authorization")
        try:
            if header is not None or not self._origins.is_local(request):
                principal = await when_keys_are_there(lambda: self._auth.authenticate(header))
                if not principal.role.at_least(Role.DBA):
                    raise PermissionDenied("reading the state of the node", "role dba")
        except KalamError as error:
            fault = faults.fault_of(error)
            return reply({"error": fault.code, "message": faults.message_of(error)}, fault.status)
        return answer()
