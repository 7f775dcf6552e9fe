"""Whether this box's clock agrees with another's: S3 refuses requests that are 15 minutes off, and ages would lie."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime

from pipeline.doctor.finding import Finding, failed, ok, warning

MAX_GOOD_SKEW_S = 5.0
MAX_BEARABLE_SKEW_S = 300.0
SET_CLOCK = "sudo timedatectl set-ntp true, on whichever of the two boxes is wrong"


def clock_of(header: str | None) -> datetime | None:
    """The moment that a `Date` header names; None where it names none."""
    try:
        moment = email.utils.parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def skew_finding(name: str, *, theirs: datetime | None, asked: datetime, answered: datetime) -> Finding:
    """Judge the distance between two clocks.

    Args:
        theirs: What the other clock said, to the second; None when it said nothing.
        asked: This box's clock when it was asked.
        answered: This box's clock when the answer came.
    """
    if theirs is None:
        return warning(name, "it does not say its time, so the clocks were not compared", "none is needed if S3 works")
    middle = asked + (answered - asked) / 2
    skew_s = (middle - theirs).total_seconds() - 0.5  # the other clock was cut to whole seconds
    where = "ahead of" if skew_s > 0 else "behind"
    if abs(skew_s) <= MAX_GOOD_SKEW_S:
        return ok(name, f"agrees with this box within {MAX_GOOD_SKEW_S:g} s")
    what = f"this box is {abs(skew_s):.0f} s {where} it"
    if abs(skew_s) <= MAX_BEARABLE_SKEW_S:
        return warning(name, f"{what}: ages in `relay status` are wrong by as much", SET_CLOCK)
    return failed(name, f"{what}: S3 refuses requests that are 15 minutes off", SET_CLOCK)
