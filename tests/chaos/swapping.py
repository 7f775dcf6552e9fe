"""Many swaps of small versions under streams, with few descriptors: nothing fails, nothing grows."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass

import psutil
from many_users import Seen, users
from servers_for_chaos import Server, World, wait_until

from pipeline.demo.traffic import Asker

MAX_MORE_FILES = 12
MAX_MORE_THREADS = 4
MAX_MORE_BYTES = 80_000_000
_BACK_SHARE = 0.5
_WARM_UP_SWAPS = 5


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much one gateway process holds, after a swap."""

    num_files: int
    num_threads: int
    num_children: int
    rss_bytes: int


def swaps(world: World, num_swaps: int, *, seed: int = 0) -> list[str]:
    """What is wrong after `num_swaps` moves of the alias, some of them back to the version before."""
    rng = random.Random(seed)
    mint = world.mint
    originals = sorted(mint.weights)
    mint.point_at(originals[0])
    server = world.server("swaps")
    server.start()
    wait_until("the first version is served", server.is_ready)
    current, previous = originals[0], None
    sizes: list[Size] = []
    seconds: list[float] = []
    with users(lambda: Asker(server.url, mint.name), Seen(weights=mint.weights)) as seen:
        for turn in range(num_swaps):
            goes_back = previous is not None and rng.random() < _BACK_SHARE
            wanted = previous if goes_back else mint.copy(rng.choice(originals[:2]), step=1000 + turn)
            begin = time.monotonic()
            mint.point_at(wanted)
            try:
                wait_until(f"version {wanted} is served", lambda wanted=wanted: server.info().get("version") == wanted)
            except TimeoutError as error:
                return [*seen.faults, f"swap {turn + 1}: {error}; {server.info().get('reason')}"]
            seconds.append(time.monotonic() - begin)
            if not goes_back and previous is not None and previous not in originals:
                mint.delete(previous)
            current, previous = wanted, current
            sizes.append(_size(server))
            if (turn + 1) % 50 == 0:
                print(f"  {turn + 1} swaps, {seen.num_whole} whole streams, {sizes[-1]}", flush=True)
    print(
        f"  {num_swaps} swaps, {seen.num_whole} whole, {len(seen.faults)} faults, longest {seen.longest_s:.1f} s; "
        f"a swap took {statistics.median(seconds):.1f} s (median); {sizes[0]} -> {sizes[-1]}",
        flush=True,
    )
    code = server.terminate()
    return [*seen.faults, *grown(sizes), *([] if code == 0 else [f"the server ended with {code}"])]


def grown(sizes: list[Size]) -> list[str]:
    """What of a gateway grew from its first swaps to its last ones."""
    part = max(1, len(sizes) // 5)
    early, late = sizes[_WARM_UP_SWAPS : _WARM_UP_SWAPS + part] or sizes[:part], sizes[-part:]
    bounds = {
        "num_files": MAX_MORE_FILES,
        "num_threads": MAX_MORE_THREADS,
        "num_children": 2,
        "rss_bytes": MAX_MORE_BYTES,
    }
    found = []
    for name, most in bounds.items():
        before, after = (statistics.median(getattr(size, name) for size in some) for some in (early, late))
        if after - before > most:
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return found


def _size(server: Server) -> Size:
    process = psutil.Process(server.pid)
    with process.oneshot():
        return Size(
            num_files=process.num_fds(),
            num_threads=process.num_threads(),
            num_children=len(process.children(recursive=True)),
            rss_bytes=process.memory_info().rss,
        )
