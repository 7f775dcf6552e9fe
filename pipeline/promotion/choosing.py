"""Which candidates pass the policy, and which of those that pass is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.promotion import statistics, wording
from pipeline.promotion.comparing import paired_differences
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import Comparison, GuardrailReport

# Rounding must not decide whether two candidates are within a standard error of each other.
_ROUNDING = 1e-12
_NUM_NAMED_SLICES = 5


def failures(result: Comparison, *, policy: Policy) -> tuple[str, ...]:
    """Every condition of the policy that a candidate does not meet, a clause each; empty when it passes."""
    found = []
    if result.difference <= 0:
        found.append(f"it is not better on these items but {wording.gain(result.difference, primary=policy.primary)}")
    elif result.p_adjusted > policy.alpha:
        found.append(
            f"its gain of {wording.amount(result.difference, primary=policy.primary)} may be luck "
            f"(adjusted p {wording.probability(result.p_adjusted)}, at most {policy.alpha:g} is needed)"
        )
    elif result.difference < policy.min_effect:
        found.append(
            f"its gain of {wording.amount(result.difference, primary=policy.primary)} is less than the "
            f"{wording.amount(policy.min_effect, primary=policy.primary)} that make a move worth it"
        )
    if any(part.is_harmed for part in result.slices):
        found.append(f"there is evidence that it is worse on {harmed_slices(result)}")
    if result.guardrail and result.guardrail.forbids:
        found.append(_guardrail_failure(result.guardrail))
    return tuple(found)


def harmed_slices(result: Comparison) -> str:
    """The slices with evidence of harm, as a list in words."""
    names = [wording.label(part.name) for part in result.slices if part.is_harmed]
    more = len(names) - _NUM_NAMED_SLICES
    return f"{', '.join(names[:_NUM_NAMED_SLICES])}{f' and {more} more slices' if more > 0 else ''}"


def take(passing: Sequence[Scores], comparisons: Mapping[int, Comparison], *, policy: Policy) -> Scores:
    """The earliest step among those of the best one's training within one paired standard error of it.

    Of equal ones of several trainings the lowest version is the best: steps of two trainings cannot be compared.

    Source: the one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees, section 3.4.3,
    with the paired standard error.

    Args:
        passing: At least one.
        comparisons: By version.
        policy: For the direction of the score.
    """
    best = min(passing, key=lambda one: (-comparisons[one.version].difference, one.version))
    near = [one for one in passing if one.training == best.training and _is_near(one, best, policy=policy)]
    return min(near, key=_earliness)


def passed_over(winner: Comparison, other: Comparison, *, winner_version: int, policy: Policy) -> str:
    """Why a candidate that passed was not taken."""
    gap = winner.difference - other.difference
    if gap > 0:
        size = wording.amount(gap, primary=policy.primary)
        return f"it passed, but version {winner_version} is better by {size}"
    if gap == 0:
        return f"it passed, but version {winner_version} is as good, of an earlier step or training"
    return (
        f"it passed, but version {winner_version} is an earlier step and not clearly worse "
        "(within one standard error of the best)"
    )


def _guardrail_failure(guardrail: GuardrailReport) -> str:
    state = "its loss rises" if guardrail.is_worse else "it is not ruled out that its loss rises"
    return (
        f"{state} by more than {guardrail.margin_nats:g} nats (difference {guardrail.difference_nats:+.4f}, "
        f"bounds {guardrail.lower_bound_nats:+.4f} and {guardrail.upper_bound_nats:+.4f})"
    )


def _is_near(one: Scores, best: Scores, *, policy: Policy) -> bool:
    behind_N = paired_differences(one, best, policy=policy)
    clusters_N = statistics.clusters_of(one.groups)
    return float(behind_N.mean()) <= statistics.standard_error(behind_N, clusters_N) + _ROUNDING


def _earliness(scores: Scores) -> tuple[float, int]:
    return (math.inf if scores.step is None else scores.step, scores.version)
