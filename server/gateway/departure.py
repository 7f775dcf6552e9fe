"""How a server leaves: first it says so while it still takes requests, then it takes no more."""

from __future__ import annotations

import time
from collections.abc import Callable


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
