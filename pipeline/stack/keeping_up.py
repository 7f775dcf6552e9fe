"""Starts again what ended by itself, each time after a longer wait, for as long as everything is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.stack.child import Child
from registry_hooks.backoff import Backoff
from registry_hooks.errors import UserError

BACKOFF = Backoff(first_s=1.0, longest_s=60.0)
# Who ran for so long has recovered: its next end is a first one.
_WELL_S = 120.0


@dataclass(slots=True, kw_only=True)
class _Life:
    began_s: float
    num_ends: int = 0
    due_s: float | None = None


@dataclass(slots=True)
class KeepingUp:
    """Looks after programs.

    Args:
        children: The programs, which run.
        say: Told what ended and what is started again, for people.
        clock: Monotonic seconds.
    """

    children: Sequence[Child]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _lives: dict[str, _Life] = field(default_factory=dict)

    def look(self) -> None:
        """Say who ended since the last look, and start again those whose wait is over."""
        now = self.clock()
        for child in self.children:
            life = self._lives.setdefault(child.name, _Life(began_s=now))
            if child.alive:
                continue
            if life.due_s is None:
                self._note_end(child, life, now)
            elif now >= life.due_s:
                self._start_again(child, life, now)

    def _note_end(self, child: Child, life: _Life, now: float) -> None:
        life.num_ends = 1 if now - life.began_s > _WELL_S else life.num_ends + 1
        delay_s = BACKOFF.delay_s(life.num_ends)
        life.due_s = now + delay_s
        self.say(
            f"{child.name} ended by itself with code {child.exit_code}, and is started again in {delay_s:g} s; "
            f"{child.log} ends with:\n{child.log_tail()}"
        )

    def _start_again(self, child: Child, life: _Life, now: float) -> None:
        life.began_s, life.due_s = now, None
        try:
            child.start()
        except UserError as error:
            self.say(str(error))  # it is dead still: the next look notes that, and waits longer
