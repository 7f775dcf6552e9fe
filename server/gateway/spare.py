"""A process that has imported torch and waits for its checkpoint, so that the next start, or restart, is quick."""

from __future__ import annotations

from collections.abc import Callable

from registry_hooks import events
from registry_hooks.backoff import Backoff
from server.engine_child import EngineChild

# What cannot be imported now can hardly be imported a second later, and each try takes seconds of a core.
DEATHS = Backoff(first_s=1.0, longest_s=300.0)


class Spare:
    """At most one waiting process. One that dies is replaced, later each time. The caller holds a lock.

    Args:
        make: Starts one.
    """

    def __init__(self, make: Callable[[], EngineChild]) -> None:
        self._make = make
        self.child: EngineChild | None = None
        self._num_deaths = 0
        self._not_before_s = 0.0

    def keep(self, *, now_s: float) -> None:
        """Have one ready, unless those before it died just now; `now_s` is on the monotonic clock."""
        if self.child is not None and not self.child.is_alive():
            self._bury(self.child, now_s)
        if self.child is None and now_s >= self._not_before_s:
            try:
                self.child = self._make()
            except OSError as error:  # no memory, no process number, no descriptor now: no reason to do without a model
                self._put_off(now_s, how=repr(error))

    def take(self) -> EngineChild | None:
        """The one that waits, to be made an engine of; None when none does."""
        child, self.child = self.child, None
        if child is not None and child.is_alive():
            self._num_deaths = 0
        return child

    def _bury(self, dead: EngineChild, now_s: float) -> None:
        self.child = None
        self._put_off(now_s, how=dead.last_words())
        dead.stop()

    def _put_off(self, now_s: float, *, how: str) -> None:
        self._num_deaths += 1
        again_in_s = DEATHS.delay_s(self._num_deaths)
        self._not_before_s = now_s + again_in_s
        events.logger().warning("spare.died", how=how, again_in_s=again_in_s)
