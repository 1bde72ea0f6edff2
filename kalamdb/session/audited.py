"""Definitions that stand in the audit log before their answer is given.

Keeps: the entry names what was defined and by whom, never a password or the text of the statement.
A definition that failed, or that found nothing to do, has no entry.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any

from kalamdb.lib.clock import Clock
from kalamdb.model.principal import Principal
from kalamdb.model.work import RequestTag
from kalamdb.ports import DefiningGroups
from kalamdb.session.audit import Act, Audit
from kalamdb.session.ddl import Definition, Definitions
from kalamdb.sql.statement import AlterUser, CreateUser, DropUser, TableName

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class AuditedDefinitions(Definitions):
    """`Definitions` that writes to `log`."""

    def __init__(
        self,
        groups: DefiningGroups,
        clock: Clock,
        hash_password: Callable[[str, str], Awaitable[str]],
        log: Audit,
        *,
        user_ddl: bool = False,
    ) -> None:
        super().__init__(groups, clock, hash_password, user_ddl=user_ddl)
        self._log = log

    async def carry_out(
        self,
        principal: Principal,
        statement: Definition,
        namespace: str,
        tag: RequestTag | None,
    ) -> str:
        text = await super().carry_out(principal, statement, namespace, tag)
        act, details = act_of(principal, statement, namespace)
        await self._log.record(act, details)
        return text


def act_of(principal: Principal, statement: Definition, namespace: str) -> tuple[Act, str | None]:
    """What the log says of a definition, and its details."""
    action = _WORD.sub("_", type(statement).__name__).upper()
    match statement:
        case CreateUser() | AlterUser() | DropUser():
            act = Act(action, principal.actor, statement.name, None, statement.name)
            return act, _user_details(statement)
        case _:
            return Act(action, principal.actor, _target(statement, namespace)), None


def _target(statement: Any, namespace: str) -> str:
    """The first name a statement holds, as it is known outside."""
    for field in fields(statement):
        value = getattr(statement, field.name)
        if isinstance(value, TableName):
            return f"{value.namespace or namespace}.{value.name}"
        if isinstance(value, str):
            return value
    return namespace


def _user_details(statement: CreateUser | AlterUser | DropUser) -> str | None:
    match statement:
        case CreateUser():
            return f"role {statement.role.value}"
        case AlterUser(role=role) if role is not None:
            return f"role {role.value}"
        case AlterUser(email=email) if email is not None:
            return "email"
        case AlterUser():
            return "password"
        case DropUser():
            return None
