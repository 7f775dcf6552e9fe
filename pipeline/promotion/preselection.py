"""Who competes: the few candidates that are worth scoring, chosen by the metric that training measured.

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
        value: The policy's `score_metric`; None, or not finite, when there is no usable one.
    """

    version: int
    value: float | None

    @property
    def is_usable(self) -> bool:
        return self.value is not None and math.isfinite(self.value)


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


def preselect(
    candidates: Sequence[Entrant], limit: int, *, metric: str = "eval_loss", lower_is_better: bool = True
) -> Preselection:
    """Take the best few by the metric; of equal ones the earlier version. Without a usable metric a version comes last.

    Among those without one the later version comes first, since more training usually helps.

    Args:
        candidates: In any order; it changes nothing.
        limit: At least 1.
        metric: Its name.
        lower_is_better: Its direction.
    """
    if limit < 1:
        raise ValueError(f"at least one candidate must be allowed, not {limit}")
    ranked = sorted(candidates, key=lambda one: _rank(one, lower_is_better=lower_is_better))
    chosen, rest = ranked[:limit], ranked[limit:]
    return Preselection(
        chosen=tuple(one.version for one in chosen),
        passed_over=tuple(
            PassedOver(version=one.version, why=_why(one, chosen[-1], limit=limit, metric=metric)) for one in rest
        ),
    )


def _rank(one: Entrant, *, lower_is_better: bool) -> tuple[float, int]:
    if one.value is None or not one.is_usable:
        return (math.inf, -one.version)
    return (one.value if lower_is_better else -one.value, one.version)


def _why(one: Entrant, last: Entrant, *, limit: int, metric: str) -> str:
    if one.value is None:
        reason = f"no {metric} of its own is recorded for it"
    elif not one.is_usable:
        reason = f"its {metric} is not a finite number"
    else:
        reason = f"its {metric} of {one.value:.6g} is not better than the {last.value or 0.0:.6g} of version "
        reason += str(last.version)
    return f"Not scored this time: at most {limit} compete at once, and {reason}."
