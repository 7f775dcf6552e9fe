"""What a failed try to bring a version into service means for the next one. Pure.

Only the version's own fault is a refusal, which is written down for all to see and acted on. What this box asks for
beyond others is declined: said, and never held against the version. Everything else is tried again, later each time.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry_hooks.backoff import Backoff
from registry_hooks.errors import Blame, RelayError, blame_of

RETRIES = Backoff(first_s=5.0, longest_s=300.0)
# What may be put back is seen missing again after that long before the version is held to have lost it.
SEEN_AGAIN_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a version is not served.

    Attributes:
        outcome: `refused` (the version is at fault, for good), `declined` (this box asks for more) or `failed`.
        retry_at_s: When to try again, on the monotonic clock; None for never by itself.
        tries: How many times in a row it was tried, from 1.
        lacking_since_s: Since when something that may be put back is known to be missing, on the monotonic clock.
    """

    because: str
    retry_at_s: float | None
    outcome: str = "refused"
    tries: int = 1
    lacking_since_s: float | None = None

    def holds(self, now_s: float) -> bool:
        """Whether it is too early for another try; `now_s` is on the monotonic clock."""
        return self.retry_at_s is None or now_s < self.retry_at_s


def refuse(error: Exception, because: str, earlier: Refusal | None, *, now_s: float) -> Refusal:
    """Say what follows on `error`, the end of a try.

    Args:
        because: The same for people.
        earlier: What followed on the try before, when there was none of success between them.
        now_s: On the monotonic clock.
    """
    tries = earlier.tries + 1 if earlier else 1
    lacking_since_s = earlier.lacking_since_s if earlier else None
    blame = blame_of(error)
    if blame is Blame.VERSION and isinstance(error, RelayError) and error.may_heal:
        lacking_since_s = now_s if lacking_since_s is None else lacking_since_s
        if now_s - lacking_since_s < SEEN_AGAIN_S:
            blame = Blame.STORE
    if not blame.may_pass:
        outcome = "refused" if blame is Blame.VERSION else "declined"
        return Refusal(because=because, retry_at_s=None, outcome=outcome, tries=tries)
    return Refusal(
        because=because,
        retry_at_s=now_s + RETRIES.delay_s(tries),
        outcome="failed",
        tries=tries,
        lacking_since_s=lacking_since_s,
    )
