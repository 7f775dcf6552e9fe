"""Who competes: the few candidates that are worth scoring, chosen by the loss that training measured.

Never by the scores that decide: choosing by them first would make the p-values too small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One admitted version.

    Attributes:
        loss: Evaluation loss that training recorded, in nats; None, or not finite, when there is no usable one.
        step: Of training; None when nobody recorded it.
    """

    version: int
    loss: float | None
    step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """One version that is not scored this time, and why, in one sentence."""

    version: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preselection:
    """Who competes, best first, and who does not."""

    chosen: tuple[int, ...]
    passed_over: tuple[PassedOver, ...]


def preselect(candidates: Sequence[Entrant], limit: int) -> Preselection:
    """Take the best few by loss; of equal losses the earlier step. Without a usable loss a version comes last.

    Among those without one the later step comes first, since more training usually helps.

    Args:
        candidates: In any order; it changes nothing.
        limit: At least 1.
    """
    if limit < 1:
        raise ValueError(f"at least one candidate must be allowed, not {limit}")
    ranked = sorted(candidates, key=_rank)
    chosen, rest = ranked[:limit], ranked[limit:]
    return Preselection(
        chosen=tuple(one.version for one in chosen),
        passed_over=tuple(PassedOver(version=one.version, why=_why(one, chosen[-1], limit=limit)) for one in rest),
    )


def _usable_loss(one: Entrant) -> float:
    """The loss; infinite where there is no usable one."""
    return math.inf if one.loss is None or not math.isfinite(one.loss) else one.loss


def _rank(one: Entrant) -> tuple[float, float, int]:
    step = math.inf if one.step is None else float(one.step)
    loss = _usable_loss(one)
    if math.isfinite(loss):
        return (loss, step, one.version)
    return (loss, -step if math.isfinite(step) else math.inf, -one.version)


def _why(one: Entrant, last: Entrant, *, limit: int) -> str:
    if one.loss is None:
        reason = "no evaluation loss is recorded for it"
    elif not math.isfinite(one.loss):
        reason = "its evaluation loss is not a finite number"
    else:
        reason = f"its evaluation loss of {one.loss:.6g} is not better than the {_usable_loss(last):.6g} of version "
        reason += str(last.version)
    return f"Not scored this time: at most {limit} compete at once, and {reason}."
