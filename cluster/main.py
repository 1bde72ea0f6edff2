"""`kalamdb-server` and `kalamdb-router`: settings, signals, exit codes.

Exit codes: 0 stopped cleanly, 2 bad settings, 3 the data directory cannot be used, 70 the disk
failed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop

from cluster.node import run_node
from cluster.router import run_router
from kalamdb.config import InvalidSettings, Settings
from kalamdb.errors import Corruption, KalamError
from kalamdb.lib.observe import configure_logging
from kalamdb.lib.settings import read_command_line

EXIT_SETTINGS = 2
EXIT_DATA = 3
SWITCH_S = 0.0002


Run = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]


def server() -> None:
    """Entry point of `kalamdb-server`."""
    _main("kalamdb-server", run_node)


def router() -> None:
    """Entry point of `kalamdb-router`."""
    _main("kalamdb-router", run_router)


def _main(program: str, run: Run) -> None:
    try:
        settings = read_command_line(program, sys.argv[1:], os.environ)
    except (InvalidSettings, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    configure_logging(settings.log.level, settings.log.format)
    # Requests make few cycles; collecting less often keeps the tail of the latencies short.
    gc.set_threshold(50_000, 20, 20)
    # The thread that syncs the log has to say so while the loop is busy; by default it waits 5 ms.
    sys.setswitchinterval(SWITCH_S)
    try:
        uvloop.run(_serve(settings, run))
    except* InvalidSettings as group:
        _leave(program, group, EXIT_SETTINGS)
    except* KalamError as group:
        _leave(program, group, EXIT_DATA)
    except* OSError as group:
        # An address that is taken or not this machine's, a directory that may not be written.
        _leave(program, group, EXIT_SETTINGS)


def _leave(program: str, group: BaseExceptionGroup[BaseException], code: int) -> None:
    log = structlog.get_logger("main")
    for error in _leaves(group):
        name = "corruption_found" if isinstance(error, Corruption) else "start_refused"
        log.error(name, reason=str(error))
        print(f"{program}: {error}", file=sys.stderr)
    sys.exit(code)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found.extend(_leaves(error))  # pyright: ignore[reportUnknownArgumentType]
        else:
            found.append(error)
    return found


async def _serve(settings: Settings, run: Run) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    await run(settings, stop)
