"""The promotion rule where all that is known of a version is one number. A point estimate, and the record says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.promotion import wording
from pipeline.promotion.policy import Policy
from pipeline.promotion.verdicts import Decision, ScalarReport, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarScore:
    """The policy's `score_metric` of one version; None, or not finite, when there is no usable one.

    Attributes:
        training: Which training it is of: steps of two trainings say nothing about each other. Empty for unknown.
        fault: Why there is no usable one, as the end of `its …`; empty where nothing more is known.
    """

    version: int
    step: int | None
    value: float | None
    training: str = ""
    fault: str = ""


def decide_scalar(incumbent: ScalarScore, candidates: Sequence[ScalarScore], *, policy: Policy) -> Decision:
    """Say whether one candidate's metric is better than the incumbent's, by at least `min_delta`.

    The best wins; of equals the earliest step of one training, else the lowest version. A metric that is missing or not
    finite never wins and is named. An incumbent without a usable metric is no bar: the best candidate with one wins.

    Returns:
        PROMOTE or KEEP. Never INCONCLUSIVE: one number does not say how uncertain it is.
    """
    gains = {one.version: _gain(incumbent, one, policy=policy) for one in candidates}
    passing = [one for one in candidates if _is_enough(gains[one.version], policy)]
    if _usable(incumbent) is None:
        passing = [one for one in candidates if _usable(one) is not None]
    winner = _take(passing, policy).version if passing else None
    why_not = {one.version: _why_not(one, gains, candidates, winner=winner, policy=policy) for one in candidates}
    return Decision(
        verdict=Verdict.KEEP if winner is None else Verdict.PROMOTE,
        winner=winner,
        because=wording.sentence(_because(incumbent, candidates, gains=gains, winner=winner, policy=policy)),
        reports=tuple(
            ScalarReport(
                version=one.version,
                step=one.step,
                value=_usable(one),
                gain=gains[one.version],
                why_not=wording.sentence(why_not[one.version]),
            )
            for one in candidates
        ),
        method="point estimate",
        incumbent=incumbent.version,
        incumbent_value=_usable(incumbent),
        num_items=0,
        fingerprint="",
        policy=policy,
    )


def _usable(one: ScalarScore) -> float | None:
    return one.value if one.value is not None and math.isfinite(one.value) else None


def _gain(incumbent: ScalarScore, one: ScalarScore, *, policy: Policy) -> float | None:
    base, value = _usable(incumbent), _usable(one)
    if base is None or value is None:
        return None
    return base - value if policy.lower_is_better else value - base


def _is_enough(gain: float | None, policy: Policy) -> bool:
    return gain is not None and gain > 0 and gain >= policy.min_delta


def _take(passing: Sequence[ScalarScore], policy: Policy) -> ScalarScore:
    """The best; of equally good ones of its training the earliest step."""
    best = min(passing, key=lambda one: (_cost(one, policy), one.version))
    equal = [one for one in passing if one.training == best.training and one.value == best.value]
    return min(equal, key=lambda one: (math.inf if one.step is None else one.step, one.version))


def _cost(one: ScalarScore, policy: Policy) -> float:
    """The metric, so that less is better."""
    value = one.value or 0.0
    return value if policy.lower_is_better else -value


def _why_not(
    one: ScalarScore,
    gains: Mapping[int, float | None],
    candidates: Sequence[ScalarScore],
    *,
    winner: int | None,
    policy: Policy,
) -> str:
    metric, gain = policy.score_metric, gains[one.version]
    if one.version == winner:
        return ""
    if _usable(one) is None:
        return f"it cannot win: its {_fault(one, policy)}"
    best = next((other for other in candidates if other.version == winner), None)
    if best is not None and (gain is None or _is_enough(gain, policy)):
        is_better = _cost(best, policy) < _cost(one, policy)
        better = "is better" if is_better else "is as good, of an earlier step or training"
        return f"its {metric} of {one.value:.6g} would be enough, but that of version {winner} {better}"
    needed = f"at least {policy.min_delta:g} is needed" if policy.min_delta else "it must be better"
    gain = gain or 0.0
    size = f"better by {gain:.6g}" if gain > 0 else f"worse by {-gain:.6g}" if gain < 0 else "exactly equal"
    return f"its {metric} of {one.value:.6g} is {size}, and {needed}"


def _fault(one: ScalarScore, policy: Policy) -> str:
    return one.fault or f"{policy.score_metric} is {'missing' if one.value is None else 'not a finite number'}"


def _because(
    incumbent: ScalarScore,
    candidates: Sequence[ScalarScore],
    *,
    gains: Mapping[int, float | None],
    winner: int | None,
    policy: Policy,
) -> str:
    metric = policy.score_metric
    if winner is None:
        needed = f" by at least {policy.min_delta:g}" if policy.min_delta else ""
        said = f"version {incumbent.version} stays: no candidate has a better {metric}{needed} (point estimate)"
    elif _usable(incumbent) is None:
        said = (
            f"version {incumbent.version} is no bar, since its {_fault(incumbent, policy)}; version {winner} has the "
            f"best {metric} of those that wait (point estimate)"
        )
    else:
        gain = f"{gains[winner]:.6g}"
        said = f"version {winner} has a better {metric} than version {incumbent.version}, by {gain} (point estimate)"
    left_out = [
        f"version {one.version} was left out because its {_fault(one, policy)}"
        for one in candidates
        if _usable(one) is None
    ]
    return "; ".join([said, *left_out])
