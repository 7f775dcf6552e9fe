"""Servers that leave and come back behind a balancer: no request fails."""

from __future__ import annotations

import time

from many_users import Seen, users
from servers_for_chaos import Server, World, balancer, wait_until

from pipeline.demo.traffic import Asker

# The balancer looks every second and believes the second `503`.
NOTICE_S = "4"
# Until the balancer has seen that a server is back: else the other one, the last that it knows, would leave.
SEEN_S = 2.5


def restarts(world: World, num_restarts: int, *, retries: bool) -> list[str]:
    """What failed while each of two servers behind HAProxy got SIGTERM and was started again `num_restarts` times."""
    mint = world.mint
    mint.point_at(min(mint.weights))
    suffix = "r" if retries else "n"
    pair = [world.server(f"{name}-{suffix}", RELAY_SERVE__DRAIN_NOTICE_S=NOTICE_S) for name in ("a", "b")]
    for server in pair:
        server.start()
    for server in pair:
        wait_until(f"{server.name} is ready", server.is_ready)
    found = []
    with balancer(pair, world.root, retries=retries) as url:
        with users(lambda: Asker(url, mint.name), Seen(weights=mint.weights), num_users=6) as seen:
            for turn in range(num_restarts):
                for server in pair:
                    found += _restart(server, turn)
        print(
            f"  {seen.num_whole} streams whole, {len(seen.faults)} faults, longest {seen.longest_s:.1f} s", flush=True
        )
    found += [f"{server.name} ended with {code}" for server in pair if (code := server.terminate()) != 0]
    return [*seen.faults, *found]


def _restart(server: Server, turn: int) -> list[str]:
    code = server.terminate()
    server.start()
    wait_until(f"{server.name} is ready again", server.is_ready)
    time.sleep(SEEN_S)
    return [] if code == 0 else [f"restart {turn + 1}: {server.name} ended with {code}"]
