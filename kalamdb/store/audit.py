"""The audit log's records in group 0: entries under dense numbers, and the newest number.

    AUDIT                 u64, the newest number ever given
    AUDIT | u64 number    one entry: msgpack of a list that begins with its format version

Keeps: numbers are given once and have no holes; only the oldest entries are ever removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.model import codec, keys
from kalamdb.model.audit import AuditEntry, NumberedAudit
from kalamdb.store.kv import KeyReader, prefix_end

VERSION = 1
_STOP = prefix_end(keys.AUDIT_NEWEST)


def encode_audit(entry: AuditEntry) -> bytes:
    return codec.pack(
        [
            VERSION,
            entry.at_ms,
            entry.actor,
            entry.action,
            entry.target,
            entry.details,
            entry.address,
            entry.subject,
        ]
    )


def decode_audit(raw: bytes) -> AuditEntry:
    found = codec.unpack(raw)
    if found[0] != VERSION:
        raise codec.UnknownVersion(f"audit entry format {found[0]} is not known")
    return AuditEntry(*found[1:])


def newest(reader: KeyReader, limit: int, before: int | None = None) -> list[NumberedAudit]:
    """Up to `limit` entries with a number below `before`, newest first."""
    found: list[NumberedAudit] = []
    stop = _STOP if before is None else keys.audit(max(before, 1))
    for key, raw in reader.scan(keys.audit(1), stop, reverse=True):
        if len(found) >= limit:
            break
        found.append(NumberedAudit(_number(key), decode_audit(raw)))
    return found


def oldest(reader: KeyReader) -> Iterator[NumberedAudit]:
    """All entries, oldest first; the caller stops when it has seen enough."""
    for key, raw in reader.scan(keys.audit(1), _STOP):
        yield NumberedAudit(_number(key), decode_audit(raw))


def _number(key: bytes) -> int:
    return keys.U64.unpack_from(key, 1)[0]
