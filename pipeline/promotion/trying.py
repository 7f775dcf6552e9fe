"""What could not be scored is tried again: when, and how often. Pure; the registry keeps it through restarts.

A version's own tag tells of that version. The same tag at the registered model tells of what is in the way of all:
the incumbent cannot be scored, the card has no room, the test set does not work.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from registry_hooks.backoff import Backoff

# Ten tries take about four hours, apart from the tries themselves.
MAX_FAULTS = 10
_WAITS = Backoff(first_s=60.0, longest_s=3600.0)
_MAX_WHY_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why something could not be scored now.

    Attributes:
        is_counted: Whether it may lie in the version: then there is a bound on the tries.
    """

    because: str
    is_counted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Tries without a score.

    Attributes:
        num_tries: In a row.
        num_faults: Those of them that may lie in the version.
        rule: By what was to be judged then; under another rule all begins anew.
        about: Of the tag at the registered model: the incumbent of that time; 0 for none.
    """

    num_tries: int
    num_faults: int
    tried_at: datetime
    next_at: datetime
    why: str
    rule: str
    about: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether it was tried as often as a version is ever tried."""
        return self.num_faults >= MAX_FAULTS

    @property
    def sentence(self) -> str:
        """For people: what happens next, and why."""
        next_at = f"{self.next_at:%Y-%m-%d %H:%M:%S} UTC"
        tries = "1 try" if self.num_tries == 1 else f"{self.num_tries} tries"
        return f"{self.why} ({tries}; next not before {next_at})"


def after(last: Trial | None, trouble: Trouble, *, rule: str, now: datetime, about: int = 0) -> Trial:
    """The trial after one more try without a score.

    Args:
        last: The one before; None, or one of another rule or incumbent, begins anew.
    """
    goes_on = last is not None and (last.rule, last.about) == (rule, about)
    num_tries = (last.num_tries if last is not None and goes_on else 0) + 1
    num_faults = (last.num_faults if last is not None and goes_on else 0) + trouble.is_counted
    return Trial(
        num_tries=num_tries,
        num_faults=num_faults,
        tried_at=now,
        next_at=now + timedelta(seconds=_WAITS.delay_s(num_tries)),
        why=trouble.because[:_MAX_WHY_CHARS],
        rule=rule,
        about=about,
    )


def is_due(trial: Trial | None, *, rule: str, now: datetime, known: Collection[Trial] = ()) -> bool:
    """Whether to try now.

    Args:
        known: Trials whose waits do not count: a person wants tried what they tell of.
    """
    if trial is None or trial.rule != rule or trial.next_at <= now:
        return True
    if trial.next_at - now > timedelta(seconds=_WAITS.longest_s):
        return True  # no wait is that long: whoever wrote it had a clock that was ahead
    return trial in known


def write_trial(trial: Trial) -> str:
    """The value of the tag."""
    return json.dumps(
        {
            "tries": trial.num_tries,
            "faults": trial.num_faults,
            "tried": trial.tried_at.isoformat(),
            "next": trial.next_at.isoformat(),
            "rule": trial.rule,
            "about": trial.about,
            "why": trial.why,
        }
    )


def read_trial(text: str | None) -> Trial | None:
    """The trial that a tag tells of; None without one, or where somebody wrote something else."""
    try:
        told = json.loads(text or "")
        return Trial(
            num_tries=int(told["tries"]),
            num_faults=int(told["faults"]),
            tried_at=_moment(told["tried"]),
            next_at=_moment(told["next"]),
            why=str(told["why"]),
            rule=str(told["rule"]),
            about=int(told["about"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _moment(text: object) -> datetime:
    moment = datetime.fromisoformat(str(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
