"""Puts numbers on candidates: all of them against one incumbent, on the same items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.promotion import statistics
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from pipeline.promotion.statistics import FloatArray
from pipeline.promotion.verdicts import Comparison, GuardrailReport, SliceReport


def compare(incumbent: Scores, candidates: Sequence[Scores], *, policy: Policy) -> tuple[Comparison, ...]:
    """Compare every candidate with the incumbent.

    Args:
        incumbent: Sorted by item, finite, at least one item.
        candidates: Of the same items in the same order, finite; at least one.
        policy: The thresholds.
    """
    differences_KN = np.stack([paired_differences(incumbent, one, policy=policy) for one in candidates])
    p_K = statistics.max_t(differences_KN, num_flips=policy.num_flips, seed=policy.seed)
    return tuple(
        Comparison(
            num_items=len(d_N),
            num_better=int((d_N > 0).sum()),
            num_worse=int((d_N < 0).sum()),
            incumbent_mean=float(incumbent.values.mean()),
            candidate_mean=float(one.values.mean()),
            difference=float(d_N.mean()),
            standard_error=statistics.standard_error(d_N),
            p_adjusted=float(p),
            lower_bound=statistics.lower_bound(d_N, alpha=policy.alpha),
            slices=_slices(d_N, incumbent.slices, policy=policy),
            guardrail=_guardrail(incumbent, one, policy=policy),
        )
        for one, d_N, p in zip(candidates, differences_KN, p_K, strict=True)
    )


def paired_differences(one: Scores, other: Scores, *, policy: Policy) -> FloatArray:
    """How much better `other` is on each item; higher is better, for losses too."""
    difference_N: FloatArray = other.values - one.values
    return -difference_N if policy.primary == "loss" else difference_N


def _slices(d_N: FloatArray, slices: Sequence[str], *, policy: Policy) -> tuple[SliceReport, ...]:
    labels = np.array(slices, dtype=object)
    names = sorted(set(slices))
    parts = [d_N[labels == name] for name in names]
    counts = [(int((part > 0).sum()), int((part < 0).sum())) for part in parts]
    p_harm = [statistics.harm_p(worse, better) for better, worse in counts]
    return tuple(
        SliceReport(
            name=name,
            num_items=len(part),
            num_better=better,
            num_worse=worse,
            difference=float(part.mean()),
            p_harm=p,
            p_harm_holm=corrected,
            is_harmed=corrected <= policy.slice_alpha,
        )
        for name, part, (better, worse), p, corrected in zip(
            names, parts, counts, p_harm, statistics.holm(p_harm), strict=True
        )
    )


def _guardrail(incumbent: Scores, candidate: Scores, *, policy: Policy) -> GuardrailReport | None:
    if incumbent.losses is None or candidate.losses is None:
        return None
    rise_N: FloatArray = candidate.losses - incumbent.losses
    lower = statistics.t_lower_bound(rise_N, alpha=policy.guardrail_alpha)
    upper = -statistics.t_lower_bound(-rise_N, alpha=policy.guardrail_alpha)
    return GuardrailReport(
        difference_nats=float(rise_N.mean()),
        lower_bound_nats=lower,
        upper_bound_nats=upper,
        margin_nats=policy.guardrail_loss_margin_nats,
        is_noninferior=upper <= policy.guardrail_loss_margin_nats,
        is_worse=lower > policy.guardrail_loss_margin_nats,
    )
