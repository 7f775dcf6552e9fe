"""What a test set can show: said before anything is scored, so that nobody waits for a promotion that cannot come."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.promotion import wording
from pipeline.promotion.policy import Policy
from pipeline.promotion.statistics import chance_below, power_at, smallest_detectable, smallest_detectable_mean

POWER = 0.8
# How often two checkpoints disagree about an item is known only after scoring; neighbours: 5 %, usual: 15 %, far: 30 %.
_DISCORDANCES = (0.05, 0.15, 0.30)
_USUAL_DISCORDANCE = 0.15
_STANDARD_DEVIATIONS_NATS = (0.1, 0.5)
# A gain that anybody would want; where it is promoted less than every second time, the set is too small.
_WANTED_GAIN = 0.03
_NUM_NAMED_SLICES = 5


def smallest_difference_lines(num_items: int, slices: Mapping[str, int], policy: Policy) -> list[str]:
    """Say the smallest gain that the set shows in 80 of 100 decisions, and warn of a policy that can hardly ever fire.

    Args:
        num_items: In the test set.
        slices: Items in each slice.
        policy: The thresholds.
    """
    if num_items < 1:
        return ["Warning: the test set is empty, so nothing can ever be promoted."]
    counts = sorted({1, policy.max_candidates})
    lines = [_detectable(num_items, num_candidates, policy) for num_candidates in counts]
    return lines + _guardrail(num_items, policy) + _warnings(num_items, policy) + _blind_slices(slices, policy)


def _detectable(num_items: int, num_candidates: int, policy: Policy) -> str:
    alpha = policy.alpha / num_candidates  # a little pessimistic: max-T loses less to correlated candidates
    who = "1 candidate" if num_candidates == 1 else f"{num_candidates} candidates"
    if policy.primary == "loss":
        found = [
            (_at_least(smallest_detectable_mean(num_items, sd, alpha, POWER), sd, num_items, policy), f"{sd:g} nats")
            for sd in _STANDARD_DEVIATIONS_NATS
        ]
        said = [f"{size} if the differences per item spread by {spread}" for size, spread in found]
    else:
        said = [
            _at_least(smallest_detectable(num_items, share, alpha, POWER), math.sqrt(share), num_items, policy)
            + f" if {share:.0%} of the items differ"
            for share in _DISCORDANCES
        ]
    return f"{num_items:,} items, {who}: the smallest gain shown in 80 of 100 decisions is {', '.join(said)}."


def _at_least(gain: float, spread: float, num_items: int, policy: Policy) -> str:
    """The gain in words, or the larger one that keeps the point estimate above `min_effect` as often."""
    needed = max(gain, policy.min_effect + smallest_detectable_mean(num_items, spread, 0.5, POWER))
    return wording.amount(needed, primary=policy.primary) if math.isfinite(needed) else "out of reach"


def _guardrail(num_items: int, policy: Policy) -> list[str]:
    """What the guardrail on the loss stops, and how often it stops for nothing."""
    if policy.primary == "loss":  # whose gain must be shown anyway
        return []
    alpha, margin = policy.guardrail_alpha, policy.guardrail_loss_margin_nats
    spreads = _STANDARD_DEVIATIONS_NATS
    where = " and ".join(f"{sd:g}" for sd in spreads)
    if policy.guardrail_forbids == "shown_rise":
        rises = [margin + smallest_detectable_mean(num_items, sd, alpha, POWER) for sd in spreads]
        said = " and ".join(f"{rise:.4f}" for rise in rises)
        return [
            f"The guardrail stops a rise of the mean loss by {said} nats in 80 of 100 decisions if the differences per "
            f"item spread by {where} nats; smaller ones may pass, and what does not rise is hardly ever stopped."
        ]
    chances = [chance_below(margin, num_items=num_items, standard_deviation=sd, alpha=alpha) for sd in spreads]
    said = " and ".join(f"{chance * 100:.0f}" for chance in chances)
    line = (
        f"The guardrail lets a candidate whose mean loss is unchanged pass in {said} of 100 decisions if the "
        f"differences per item spread by {where} nats"
    )
    if min(chances) >= 0.5:
        return [f"{line}."]
    return [f"Warning: {line}. Take more items, a larger margin, or `guardrail_forbids: shown_rise`."]


def _warnings(num_items: int, policy: Policy) -> list[str]:
    if num_items < _fewest(policy.alpha):
        return [
            f"Warning: {num_items} items can never show a gain at alpha {policy.alpha:g}; "
            f"at least {_fewest(policy.alpha)} are needed, some hundreds are sensible."
        ]
    if policy.primary == "loss":
        return []
    chance = power_at(_WANTED_GAIN, num_items=num_items, discordance=_USUAL_DISCORDANCE, alpha=policy.alpha)
    if policy.min_effect > _WANTED_GAIN or chance >= 0.5:
        return []
    return [
        f"Warning: a single candidate that is truly {_WANTED_GAIN * 100:.0f} points better would be promoted in about "
        f"{chance * 100:.0f} of 100 decisions. Take more items, or `primary: loss`, which shows more with as many."
    ]


def _blind_slices(slices: Mapping[str, int], policy: Policy) -> list[str]:
    fewest = _fewest(policy.slice_alpha / max(1, len(slices)))
    blind = sorted(name for name, count in slices.items() if count < fewest)
    if not blind:
        return []
    named = ", ".join(wording.label(name) for name in blind[:_NUM_NAMED_SLICES]) + (
        "…" if len(blind) > _NUM_NAMED_SLICES else ""
    )
    return [f"Warning: slices with fewer than {fewest} items can never show harm ({named})."]


def _fewest(alpha: float) -> int:
    """Items that must all point one way for a sign test to reach alpha: 2^-n <= alpha."""
    return max(1, math.ceil(math.log2(1 / alpha)))
