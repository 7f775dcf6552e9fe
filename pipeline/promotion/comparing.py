"""Puts numbers on candidates: all of them against one incumbent, on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.promotion import statistics
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from pipeline.promotion.statistics import FloatArray
from pipeline.promotion.verdicts import Comparison, GuardrailReport, SliceReport

BoolArray = npt.NDArray[np.bool_]
_FLIPS_PER_LEVEL = 4
# Seconds; a `slice_alpha` that would need more can hardly be reached by any harm.
_MAX_FLIPS = 1_000_000


def compare(incumbent: Scores, candidates: Sequence[Scores], *, policy: Policy) -> tuple[Comparison, ...]:
    """Compare every candidate with the incumbent.

    Args:
        incumbent: Sorted by item, finite, at least one item.
        candidates: Of the same items in the same order, finite; at least one.
        policy: The thresholds.
    """
    differences_KN = np.stack([paired_differences(incumbent, one, policy=policy) for one in candidates])
    clusters_N = statistics.clusters_of(incumbent.groups)
    observed_KG = np.stack([statistics.summed(d_N, clusters_N) for d_N in differences_KN])
    p_K = statistics.max_t(observed_KG, num_flips=policy.num_flips, seed=policy.seed)
    return tuple(
        Comparison(
            num_items=len(d_N),
            num_better=int((d_N > 0).sum()),
            num_worse=int((d_N < 0).sum()),
            incumbent_mean=float(incumbent.values.mean()),
            candidate_mean=float(one.values.mean()),
            difference=float(d_N.mean()),
            standard_error=statistics.standard_error(d_N, clusters_N),
            p_adjusted=float(p),
            lower_bound=statistics.lower_bound(d_N, alpha=policy.alpha, clusters_N=clusters_N),
            slices=_slices(d_N, incumbent, policy=policy),
            guardrail=_guardrail(incumbent, one, policy=policy),
        )
        for one, d_N, p in zip(candidates, differences_KN, p_K, strict=True)
    )


def paired_differences(one: Scores, other: Scores, *, policy: Policy) -> FloatArray:
    """How much better `other` is on each item; higher is better, for losses too."""
    difference_N: FloatArray = other.values - one.values
    return -difference_N if policy.primary == "loss" else difference_N


def _slices(d_N: FloatArray, incumbent: Scores, *, policy: Policy) -> tuple[SliceReport, ...]:
    labels = np.array(incumbent.slices, dtype=object)
    names = sorted(set(incumbent.slices))
    parts = [d_N[labels == name] for name in names]
    p_harm = [_p_harm(d_N, labels == name, incumbent.groups, policy, len(names)) for name in names]
    return tuple(
        SliceReport(
            name=name,
            num_items=len(part),
            num_better=int((part > 0).sum()),
            num_worse=int((part < 0).sum()),
            difference=float(part.mean()),
            p_harm=p,
            p_harm_holm=corrected,
            is_harmed=corrected <= policy.slice_alpha and -float(part.mean()) >= policy.slice_min_harm,
        )
        for name, part, p, corrected in zip(names, parts, p_harm, statistics.holm(p_harm), strict=True)
    )


def _p_harm(d_N: FloatArray, is_in_N: BoolArray, groups: Sequence[str], policy: Policy, num_slices: int) -> float:
    own = [group for group, is_in in zip(groups, is_in_N, strict=True) if is_in] if groups else []
    observed_G = statistics.summed(d_N[is_in_N], statistics.clusters_of(own))
    # Enough flips for a p-value that the correction for all slices can leave below slice_alpha.
    enough = min(_MAX_FLIPS, math.ceil(_FLIPS_PER_LEVEL * num_slices / policy.slice_alpha))
    return statistics.harm_p_of_mean(observed_G, num_flips=max(policy.num_flips, enough), seed=policy.seed)


def _guardrail(incumbent: Scores, candidate: Scores, *, policy: Policy) -> GuardrailReport | None:
    if incumbent.losses is None or candidate.losses is None:
        return None
    rise_N: FloatArray = candidate.losses - incumbent.losses
    clusters_N = statistics.clusters_of(incumbent.groups)
    lower = statistics.t_lower_bound(rise_N, alpha=policy.guardrail_alpha, clusters_N=clusters_N)
    upper = -statistics.t_lower_bound(-rise_N, alpha=policy.guardrail_alpha, clusters_N=clusters_N)
    margin = policy.guardrail_loss_margin_nats
    is_noninferior, is_worse = upper <= margin, lower > margin
    return GuardrailReport(
        difference_nats=float(rise_N.mean()),
        lower_bound_nats=lower,
        upper_bound_nats=upper,
        margin_nats=margin,
        is_noninferior=is_noninferior,
        is_worse=is_worse,
        forbids=is_worse if policy.guardrail_forbids == "shown_rise" else not is_noninferior,
    )
