"""Who is asking. Built only by `session.auth` (and `rpc.peer`); everything later trusts it as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from kalamdb.model.ids import Partition, TenantId, tenant_partition


class Role(Enum):
    """What a user may do; each includes the rights of those before it."""

    USER = "user"
    SERVICE = "service"
    DBA = "dba"
    SYSTEM = "system"

    @property
    def rank(self) -> int:
        return _RANKS[self]

    def at_least(self, other: Role) -> bool:
        return _RANKS[self] >= _RANKS[other]


_RANKS = {Role.USER: 1, Role.SERVICE: 2, Role.DBA: 3, Role.SYSTEM: 4}


@dataclass(frozen=True, slots=True)
class Principal:
    """One signed-in identity.

    `user` is the effective tenant, `actor` who really signed in (they differ inside EXECUTE AS).
    `epoch` is the user's token epoch when the token was checked; `partition` is the tenant's.
    """

    user: TenantId
    role: Role
    actor: TenantId
    partition: Partition
    epoch: int = 0

    @staticmethod
    def of(user: str, role: Role, epoch: int = 0) -> Principal:
        tenant = TenantId(user)
        return Principal(tenant, role, tenant, tenant_partition(tenant), epoch)

    def act_as(self, user: str) -> Principal:
        """The identity inside EXECUTE AS: the target tenant with role user; admin rights are
        lost.
        """
        tenant = TenantId(user)
        return replace(self, user=tenant, role=Role.USER, partition=tenant_partition(tenant))
