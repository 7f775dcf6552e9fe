"""Whether a program still gets on, by the time in which it really ran."""

from __future__ import annotations

# A longer gap between two ticks is no time that the program had: it was stopped, or the machine slept.
_LONGEST_TICK_S = 5.0


class Pulse:
    """Seconds since the last sign of life, without those in which nothing here could run.

    A laptop that slept and a process that was stopped (SIGSTOP) have not been stuck: the clock went on, they did not.
    Beats may come from any thread, ticks from one.
    """

    def __init__(self) -> None:
        self._ran_s = self._beaten_at_s = 0.0

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat."""
        return self._ran_s - self._beaten_at_s

    def beat(self) -> None:
        """Something got done."""
        self._beaten_at_s = self._ran_s

    def tick(self, waited_s: float) -> None:
        """So much time has passed since the last tick."""
        self._ran_s += min(waited_s, _LONGEST_TICK_S)
