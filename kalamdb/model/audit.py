"""What the audit log says of one act."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`actor` did `action` to `target`, where the act concerns another user: `subject`.

    `address` is where the actor was, when it is known. Never a password, a token or a row.
    """

    at_ms: int
    actor: str
    action: str
    target: str
    details: str | None = None
    address: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class NumberedAudit:
    """An entry in its place; numbers have no holes, so a missing one shows."""

    number: int
    entry: AuditEntry
