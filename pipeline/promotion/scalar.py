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
    """The policy's `score_metric` of one version; None, or not finite, when there is no usable one."""

    version: int
    step: int | None
    value: float | None


def decide_scalar(incumbent: ScalarScore, candidates: Sequence[ScalarScore], *, policy: Policy) -> Decision:
    """Say whether one candidate's metric is better than the incumbent's, by at least `min_delta`.

    The best wins; of equals the earliest step. A metric that is missing or not finite never wins and is named.

    Returns:
        PROMOTE, KEEP, or ERROR when the incumbent has no usable metric. Never INCONCLUSIVE: one number does not say
        how uncertain it is.
    """
    gains = {one.version: _gain(incumbent, one, policy=policy) for one in candidates}
    passing = {one.version: one for one in candidates if _is_enough(gains[one.version], policy)}
    winner = min(passing.values(), key=lambda one: _rank(one, gains)).version if passing else None
    base = _usable(incumbent)
    verdict = Verdict.ERROR if base is None else Verdict.KEEP if winner is None else Verdict.PROMOTE
    why_not = {one.version: _why_not(one, incumbent, gains, winner=winner, policy=policy) for one in candidates}
    return Decision(
        verdict=verdict,
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
        incumbent_value=base,
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


def _rank(one: ScalarScore, gains: Mapping[int, float | None]) -> tuple[float, float, int]:
    return (-(gains[one.version] or 0.0), math.inf if one.step is None else one.step, one.version)


def _why_not(
    one: ScalarScore, incumbent: ScalarScore, gains: Mapping[int, float | None], *, winner: int | None, policy: Policy
) -> str:
    metric, gain = policy.score_metric, gains[one.version]
    if one.version == winner:
        return ""
    if _usable(one) is None:
        return f"it cannot win: its {_fault(one, policy)}"
    if gain is None:
        return (
            f"nothing was decided: of version {incumbent.version}, which holds the alias, {_fault(incumbent, policy)}"
        )
    if winner is not None and _is_enough(gain, policy):
        better = "is better" if (gains[winner] or 0.0) > gain else "is as good, of an earlier step"
        return f"its {metric} of {one.value:.6g} would be enough, but that of version {winner} {better}"
    needed = f"at least {policy.min_delta:g} is needed" if policy.min_delta else "it must be better"
    size = f"better by {gain:.6g}" if gain > 0 else f"worse by {-gain:.6g}" if gain < 0 else "exactly equal"
    return f"its {metric} of {one.value:.6g} is {size}, and {needed}"


def _fault(one: ScalarScore, policy: Policy) -> str:
    return f"{policy.score_metric} is {'missing' if one.value is None else 'not a finite number'}"


def _because(
    incumbent: ScalarScore,
    candidates: Sequence[ScalarScore],
    *,
    gains: Mapping[int, float | None],
    winner: int | None,
    policy: Policy,
) -> str:
    metric = policy.score_metric
    if _usable(incumbent) is None:
        return (
            f"nothing was decided and the alias stays: of version {incumbent.version}, which holds it, "
            f"{_fault(incumbent, policy)}; record one, or move the alias by hand (point estimate)"
        )
    if winner is None:
        needed = f" by at least {policy.min_delta:g}" if policy.min_delta else ""
        said = f"version {incumbent.version} stays: no candidate has a better {metric}{needed} (point estimate)"
    else:
        gain = f"{gains[winner]:.6g}"
        said = f"version {winner} has a better {metric} than version {incumbent.version}, by {gain} (point estimate)"
    left_out = [
        f"version {one.version} was left out because its {_fault(one, policy)}"
        for one in candidates
        if _usable(one) is None
    ]
    return "; ".join([said, *left_out])
