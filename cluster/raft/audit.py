# pyright: reportMissingTypeStubs=false
"""Pins pysyncobj: this package overrides private methods of exactly one audited version.

`core.py` replaces name-mangled methods and reads private fields. Another release, or a patched
copy, may change what those mean, and the fault would show as lost writes, not as an exception. So
the node refuses to start on any source but the audited one.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pysyncobj
from pysyncobj.version import VERSION

from kalamdb.errors import Corruption

AUDITED_VERSION = "0.3.17"

# sha256 of the files whose code runs in or beside a group.
AUDITED_SHA256 = {
    "config.py": "fbbc7ff9f18e4d15a7fd563376e42f5bd192956879d4b810b056d5248b955698",
    "fast_queue.py": "8477fe5fdf36d9766df933310d3d66ee953d1afc195b1e6482b3a1498fc517bd",
    "journal.py": "9cf1eaf6acc704581a4cf7d3de330a404403913107adc91c929778b7e3f35edf",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "serializer.py": "4d39fde2f15000ad8f507ec229ebd4f6a86371b6f84d4dc1439a9cccd52857ee",
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
}


def audit(source: Path, version: str) -> None:
    """Check the library at `source` against the audited one.

    Raises: Corruption, naming the file, when version or bytes differ.
    """
    if version != AUDITED_VERSION:
        detail = f"pysyncobj {version} is installed, only {AUDITED_VERSION} is audited"
        raise Corruption(path=str(source), offset=0, detail=detail)
    for name, audited in AUDITED_SHA256.items():
        path = source / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"
        if found != audited:
            detail = (
                f"not the audited source of pysyncobj {AUDITED_VERSION} "
                f"(sha256 {found}, audited {audited}); install the pinned wheel"
            )
            raise Corruption(path=str(path), offset=0, detail=detail)


@cache
def audit_installed() -> None:
    """Check the installed library once per process; see `audit`."""
    audit(Path(pysyncobj.__file__).parent, VERSION)
