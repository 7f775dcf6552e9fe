"""How long to wait before the next try. Pure; standard library only."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double from `first_s` up to `longest_s`, however many tries there were."""

    first_s: float
    longest_s: float

    def delay_s(self, num_failures: int) -> float:
        """Seconds to wait after the `num_failures`-th failure in a row, counted from 1; 0 when there was none."""
        if num_failures < 1:
            return 0.0
        return min(self.first_s * 2.0 ** min(num_failures - 1, _MOST_DOUBLINGS), self.longest_s)
