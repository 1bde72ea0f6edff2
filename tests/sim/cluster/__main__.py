"""`python -m tests.sim.cluster --seeds 0-99`: a campaign; one seed alone is shown in full."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.sim.cluster import world


def one(seed: int) -> tuple[str, bool, float]:
    started_s = time.monotonic()
    logging.disable(logging.CRITICAL)
    report = world.run(seed)
    return str(report), not report.faults, time.monotonic() - started_s


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.cluster")
    parser.add_argument("--seeds", default="0-9", help="A-B, or one seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("-v", action="store_true", help="every event")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        arguments = [sys.executable, "-m", "tests.sim.cluster", *sys.argv[1:]]
        os.execve(sys.executable, arguments, os.environ | {"PYTHONHASHSEED": "0"})
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if options.v:
        return 1 if print(report := world.run(seeds[0], verbose=True)) or report.faults else 0
    failed, started_s = 0, time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        for seed, (text, good, took_s) in zip(seeds, pool.map(one, seeds), strict=True):
            failed += not good
            if not good or len(seeds) <= 10:
                print(f"{text}\n  took {took_s:.1f} s", flush=True)
            elif seed % 100 == 99:
                print(f"… {seed}: {failed} failed", flush=True)
    print(f"{len(seeds)} seeds, {failed} failed, {time.monotonic() - started_s:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
