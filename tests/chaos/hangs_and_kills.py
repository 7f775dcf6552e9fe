"""Engines that are stopped (SIGSTOP) or killed (SIGKILL) under load: requests wait or are answered, and none hangs."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import psutil
from many_users import Seen, users
from servers_for_chaos import Server, World, wait_until

from pipeline.demo.traffic import Asker

# From a hit to answers: a hang is believed after about ten seconds, an engine that dies often starts up to 30 s later.
LONGEST_S = 75.0


def hangs_and_kills(world: World, num_hits: int) -> list[str]:
    """What is wrong after `num_hits` times SIGSTOP and SIGKILL in turn."""
    mint = world.mint
    version = min(mint.weights)
    mint.point_at(version)
    server = world.server("hits", RELAY_SERVE__HOLD_TIMEOUT_S=f"{LONGEST_S:g}")
    server.start()
    wait_until("the version is served", server.is_ready)
    found: list[str] = []
    seen = Seen(weights=mint.weights, expected_cut=True)
    with users(lambda: Asker(server.url, mint.name, timeout_s=2 * LONGEST_S), seen, pause_s=0.2):
        for turn in range(num_hits):
            how = signal.SIGSTOP if turn % 2 == 0 else signal.SIGKILL
            before = seen.num_whole
            wait_until("users are answered", lambda before=before: seen.num_whole > before + 10)
            hit = _in_service(server)
            begin = time.monotonic()
            hit.send_signal(how)
            answered = seen.num_whole
            try:
                wait_until("users are answered again", lambda a=answered: seen.num_whole > a + 16, LONGEST_S)
            except TimeoutError as error:
                found.append(f"hit {turn + 1} ({how.name}): {error}; {server.info().get('reason')}")
                break
            print(f"  {how.name}: answers again after {time.monotonic() - begin:.1f} s", flush=True)
            if not _is_gone(hit):
                found.append(f"hit {turn + 1} ({how.name}): the engine that was hit is still there")
            wait_until("the server is ready", server.is_ready)
    print(
        f"  {seen.num_whole} whole, {seen.num_cut} ended with an error event, longest {seen.longest_s:.1f} s",
        flush=True,
    )
    code = server.terminate()
    return [*seen.faults, *found, *([] if code == 0 else [f"the server ended with {code}"])]


def _in_service(server: Server) -> psutil.Process:
    """The engine that answers: the only one that listens; a spare does not yet."""
    for engine in server.engines():
        with suppress(psutil.Error):
            if any(connection.laddr for connection in engine.net_connections("unix")):
                return engine
    raise LookupError(f"{server.name} has no engine that listens")


def _is_gone(process: psutil.Process) -> bool:
    with suppress(TimeoutError):
        wait_until("", lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 15.0)
        return True
    return False
