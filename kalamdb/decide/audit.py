"""Decisions on the audit log: entries get the next numbers, and the oldest leave in bounded steps.

Keeps: numbers go on from the newest one decided, also when older entries are gone.
"""

from __future__ import annotations

from kalamdb.decide.draft import Draft
from kalamdb.model import keys
from kalamdb.model.command import Outcome
from kalamdb.model.work import PutAudit, TrimAudit
from kalamdb.store.audit import encode_audit, oldest
from kalamdb.store.kv import KeyReader


def put_audit(draft: Draft, work: PutAudit) -> Outcome:
    newest = _newest(draft)
    for number, entry in enumerate(work.entries, newest + 1):
        draft.add(keys.audit(number), encode_audit(entry))
    if work.entries:
        draft.put(keys.AUDIT_NEWEST, keys.U64.pack(newest + len(work.entries)))
    return Outcome(len(work.entries), draft.seq)


def trim_audit(draft: Draft, work: TrimAudit, *, reader: KeyReader) -> Outcome:
    first_kept = _newest(draft) - work.entries_max + 1
    removed = 0
    for found in oldest(reader):
        if removed >= work.keys_max:
            break
        if found.number >= first_kept and found.entry.at_ms >= work.before_ms:
            break
        draft.add(keys.audit(found.number), None)
        removed += 1
    return Outcome(removed, draft.seq, deleted=removed)


def _newest(draft: Draft) -> int:
    raw = draft.get(keys.AUDIT_NEWEST)
    return 0 if raw is None else keys.U64.unpack(raw)[0]
