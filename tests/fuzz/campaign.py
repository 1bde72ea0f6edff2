"""Many worlds in several processes, and one world again.

`python -m tests fuzz` throws 100,000 statements; `--seed N` shows one world statement by statement.
The campaign fails for the first wrong answer of any world, and when too little of what was said was
right: a grammar that is refused everywhere finds nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import structlog

from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.fuzz.grammar import BROKEN, Request
from tests.fuzz.world import STATEMENTS, Broken, Tally, World

TOTAL = 100_000
PROCESSES = 2
BROKEN_MOST = 10
QUERY_TIMEOUT_S = 10.0
# Percent that must be answered with 200, of all and of each kind said often enough to tell.
LEAST, LEAST_OF_KIND = 40, 12
# Most of these are for what is not there, or not one's own.
SELDOM = {BROKEN: 0.2, "kill": 1.0, "user": 4.0, "namespace": 5.0}
SAID_OFTEN = 200


def settings() -> PoolSettings:
    return PoolSettings(workers_max=1, timeout_s=QUERY_TIMEOUT_S)


async def worlds(seeds: Iterable[int], statements: int) -> tuple[Tally, list[Broken]]:
    """Those worlds one after another, over one pool of query workers."""
    pool = EnginePool(settings())
    tally, broken = Tally(), list[Broken]()
    try:
        for seed in seeds:
            world = World(seed, pool)
            try:
                await world.run(statements)
            except Broken as error:
                broken.append(error)
            tally.add(world.tally)
    finally:
        await pool.close()
    return tally, broken


def run_share(seeds: list[int], statements: int) -> tuple[Tally, list[str]]:
    """In a process of its own."""
    quiet()
    tally, broken = asyncio.run(worlds(seeds, statements))
    return tally, [str(error) for error in broken]


def quiet() -> None:
    """A world's workers come and go; only faults are worth a line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def campaign(first: int, total: int = TOTAL, processes: int = PROCESSES) -> int:
    """The exit code. Worlds are dealt in shares of ten, so that processes end together."""
    started_s = time.monotonic()
    count = -(-total // STATEMENTS)
    seeds = list(range(first, first + count))
    shares = [seeds[at : at + 10] for at in range(0, count, 10)]
    tally, broken = Tally(), list[str]()
    with ProcessPoolExecutor(processes, get_context("spawn")) as executor:
        futures = [executor.submit(run_share, share, STATEMENTS) for share in shares]
        for future in as_completed(futures):
            found, wrong = future.result()
            tally.add(found)
            broken += wrong
            if len(broken) > BROKEN_MOST:
                executor.shutdown(wait=False, cancel_futures=True)
                break
    for line in broken:
        print(line)
    took_s = time.monotonic() - started_s
    complaints = report(tally, took_s)
    return 1 if broken or complaints else 0


def report(tally: Tally, took_s: float) -> list[str]:
    """Prints what was said; what is amiss with the grammar is returned, too."""
    asked, answered = sum(tally.asked.values()), sum(tally.answered.values())
    complaints: list[str] = []
    for kind, count in tally.asked.most_common():
        percent = 100 * tally.answered[kind] / count
        print(f"  {kind:<16} {count:>7} asked  {percent:5.1f} % answered")
        if count >= SAID_OFTEN and percent < SELDOM.get(kind, LEAST_OF_KIND):
            complaints.append(f"only {percent:.1f} % of '{kind}' was answered")
    print("  refused:", ", ".join(f"{code} {n}" for code, n in tally.codes.most_common()))
    print(f"  slowest: {tally.slowest_s:.2f} s: {tally.slowest}")
    if asked and 100 * answered / asked < LEAST:
        complaints.append(f"only {100 * answered / asked:.1f} % of all was answered")
    print(f"{asked} statements in {took_s:.1f} s, {100 * answered / max(1, asked):.1f} % answered")
    for complaint in complaints:
        print(complaint)
    return complaints


def replay(seed: int) -> int:
    """One world, each statement with its answer; the exit code."""
    quiet()

    def tell(number: int, request: Request, status: int, raw: bytes) -> None:
        print(f"{number} {request.user} [{request.kind}] {request.sql!r}")
        extra = (request.params, request.namespace, request.request_id, request.transaction)
        if any(one is not None for one in extra):
            print(f"    {extra}")
        print(f"  {status} {raw.decode(errors='replace')[:600]}")

    async def one() -> None:
        pool = EnginePool(settings())
        try:
            await World(seed, pool, tell).run()
        finally:
            await pool.close()

    try:
        asyncio.run(one())
    except Broken as error:
        print(error, file=sys.stderr)
        cause = error.__cause__
        if cause is not None:
            raise cause from None
        return 1
    return 0
