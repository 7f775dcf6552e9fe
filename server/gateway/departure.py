"""How a server leaves: first it says so while it still takes requests, then it takes no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from server.gateway.lineup import LineUp, Slot


class Departure:
    """Told by signals, read by everybody who must know; a signal handler may call it, for it only sets fields.

    Args:
        notice_s: How long `/ready` says "leaving" before the door closes.
    """

    def __init__(self, notice_s: float = 0.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._notice_s = notice_s
        self._clock = clock
        self._closes_at: float | None = None

    def announce(self) -> None:
        """Begin to leave; said again, it ends the notice at once."""
        now = self._clock()
        self._closes_at = now + self._notice_s if self._closes_at is None else min(now, self._closes_at)

    @property
    def is_announced(self) -> bool:
        """Whether balancers should send new requests elsewhere."""
        return self._closes_at is not None

    @property
    def is_closing(self) -> bool:
        """Whether the notice is over: no new request is begun."""
        return self._closes_at is not None and self._clock() >= self._closes_at


def end_engines(lineup: LineUp, grace_s: float) -> None:
    """End all engines, those that are retiring too, and return when they have ended: engines last.

    Args:
        grace_s: How long the streams of each may go on; after that they end with an error event.
    """

    def end(slot: Slot) -> None:
        slot.leaving = "shutdown"
        lineup.wait_drained(slot, grace_s)
        slot.engine.stop()

    ending = [threading.Thread(target=end, args=(slot,), name="ending", daemon=True) for slot in lineup.slots()]
    for thread in ending:
        thread.start()
    for thread in ending:
        thread.join()
