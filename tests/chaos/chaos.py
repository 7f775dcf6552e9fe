"""Swaps, restarts, hangs and kills under streaming users: `make chaos`. The short form is a test.

Nothing may fail that the docs promise: no request fails, is cut or mixes two versions while versions are swapped or
servers leave; and when an engine is stopped or killed, requests wait or are answered, and none hangs past its bound.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hangs_and_kills import hangs_and_kills
from leaving import restarts
from servers_for_chaos import World, haproxy, world
from swapping import swaps


def run(made: World, *, num_swaps: int, num_restarts: int, num_hits: int) -> list[str]:
    """What went wrong, a line each."""
    found = []
    if num_swaps:
        found += _timed(f"{num_swaps} swaps", lambda: swaps(made, num_swaps))
    if num_hits:
        found += _timed(f"{num_hits} hangs and kills", lambda: hangs_and_kills(made, num_hits))
    if num_restarts and haproxy() is None:
        print("haproxy is not installed: restarts behind a balancer are left out", flush=True)
    elif num_restarts:
        for retries in (True, False)[num_restarts == 1 :]:  # the short form: only what is harder
            what = f"{num_restarts} restarts of each server, balancer {'with' if retries else 'without'} retries"
            found += _timed(what, lambda retries=retries: restarts(made, num_restarts, retries=retries))
    return found


def _timed(what: str, scenario) -> list[str]:  # type: ignore[no-untyped-def]
    begin = time.monotonic()
    found = [f"{what}: {fault}" for fault in scenario()]
    print(f"{what}: {len(found)} faults, {time.monotonic() - begin:.0f} s", flush=True)
    return found


def main() -> int:
    """Run it, say what was found; exit code 1 when something was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--hits", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it takes its servers down with it
    root = Path(tempfile.mkdtemp(prefix="relay-chaos-"))
    with world(root) as made:
        found = run(made, num_swaps=options.swaps, num_restarts=options.restarts, num_hits=options.hits)
    for fault in found:
        print(f"found: {fault}")
    if found or options.keep:
        print(f"logs: {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)
    print("nothing failed, nothing was left behind" if not found else f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
