"""What to do after a checkpoint could not be published: try again, and when, or give it up. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from registry_hooks.backoff import Backoff
from registry_hooks.errors import AccessDeniedError, EngineError, RelayError

BACKOFF = Backoff(first_s=1.0, longest_s=120.0)
# Tries of one checkpoint where the trouble may be its own; without a bound it would block all that come after it.
MAX_OWN_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again after `delay_s`."""

    delay_s: float
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """This checkpoint will not be published; the others go on."""

    because: str


def is_outage(error: Exception) -> bool:
    """Whether registry or store are to blame, so that any other checkpoint would fare the same.

    Refused credentials count: they expire in long trainings, and a person mends them without losing a checkpoint.
    """
    if isinstance(error, AccessDeniedError):
        return True
    return isinstance(error, RelayError) and error.transient and not isinstance(error, EngineError)


def after(error: Exception, *, num_in_a_row: int, num_own: int, jitter: float) -> Retry | GiveUp:
    """Say what follows on `error`.

    Args:
        num_in_a_row: Failures without a success between them, this one included.
        num_own: Those of this checkpoint that were no outage, this one included.
        jitter: 0 to 1; spreads those who wait for the same server.

    Returns:
        `Retry` for outages, however long; for an engine that died and for what nobody foresaw, a few times; `GiveUp`
        for everything that would happen again.
    """
    delay_s = BACKOFF.delay_s(num_in_a_row) * (0.5 + jitter / 2)
    because = str(error) or repr(error)
    if is_outage(error):
        return Retry(delay_s=delay_s, because=because)
    may_pass = not isinstance(error, RelayError) or error.transient
    if may_pass and num_own < MAX_OWN_FAILURES:
        return Retry(delay_s=delay_s, because=because)
    return GiveUp(because=because if not may_pass else f"{because} (tried {num_own} times)")
