"""What processes leave behind when they end without a word.

A process that was killed leaves suspended coroutines. Python finalizes them when it finds them,
which depends on what ran before in this interpreter; so none is found while a world runs, and what
they say when they are is not heard. Nor is what the product logs.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import structlog

from cluster.rpc import calls


@contextmanager
def late_ends() -> Iterator[None]:
    """Around a run; what is left of it is finalized at its end."""
    hook = sys.unraisablehook

    class Deaf:
        def error(self, event: str, **fields: object) -> None: ...

    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    was_on = gc.isenabled()
    gc.disable()
    gc.freeze()  # what was there before is not looked through at the end
    sys.unraisablehook = _not_heard
    try:
        yield
    finally:
        with patch.object(calls, "log", Deaf()):
            for _ in range(3):
                gc.collect()
        sys.unraisablehook = hook
        gc.unfreeze()
        structlog.configure(**logs)
        if was_on:
            gc.enable()


def _not_heard(unraisable: sys.UnraisableHookArgs) -> None: ...
