"""Copies are no evidence, and harm in a slice is a matter of how much, not only of how often."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.promotion import statistics
from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from tests.promotion.decisions import comparison_of

Build = Callable[..., Scores]


@pytest.mark.parametrize("num_copies", [1, 3, 50])
def test_copies_in_one_group_count_once(scored: Build, num_copies: int) -> None:
    """4 of 60 questions better: p 0.0625 however often each of them is asked."""
    groups = [f"g{place}" for place in range(60)] * num_copies
    base, better = [0.0] * 60 * num_copies, ([1.0] * 4 + [0.0] * 56) * num_copies

    decision = decide(scored(1, base, groups=groups), [scored(2, better, groups=groups)], policy=Policy())

    assert comparison_of(decision, 2).p_adjusted == pytest.approx(1 / 16)
    assert decision.winner is None


def test_copies_without_a_group_would_have_been_evidence(scored: Build) -> None:
    decision = decide(scored(1, [0.0] * 180), [scored(2, ([1.0] * 4 + [0.0] * 56) * 3)], policy=Policy())

    assert comparison_of(decision, 2).p_adjusted < 0.001


def test_a_cluster_of_copies_has_the_standard_error_and_the_bound_of_one(scored: Build) -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, 40)
    copies, clusters = np.repeat(differences, 5), np.repeat(np.arange(40), 5)

    assert statistics.standard_error(copies, clusters) == pytest.approx(statistics.standard_error(differences))
    assert statistics.t_lower_bound(copies, alpha=0.05, clusters_N=clusters) == pytest.approx(
        statistics.t_lower_bound(differences, alpha=0.05)
    )
    assert statistics.standard_error(copies) < statistics.standard_error(differences) / 2
    one = np.zeros(5, dtype=np.intp)
    assert statistics.standard_error(copies[:5], one) == math.inf
    assert statistics.t_lower_bound(copies[:5], alpha=0.05, clusters_N=one) == -math.inf


def test_a_group_is_one_observation_in_the_bounds_of_a_decision_too(scored: Build) -> None:
    groups = [f"g{place // 4}" if place < 20 else "" for place in range(40)]
    base, better = [0.0] * 40, [1.0] * 12 + [0.0] * 28
    alone = decide(scored(1, base), [scored(2, better)], policy=Policy())
    grouped = decide(scored(1, base, groups=groups), [scored(2, better, groups=groups)], policy=Policy())

    assert comparison_of(grouped, 2).standard_error > comparison_of(alone, 2).standard_error
    assert comparison_of(grouped, 2).lower_bound < comparison_of(alone, 2).lower_bound
    assert statistics.clusters_of(groups) is not None
    assert statistics.clusters_of(["", ""]) is None


def test_copies_in_one_slice_are_no_evidence_of_harm(scored: Build) -> None:
    slices = ["a"] * 100 + ["b"] * 100
    groups = [""] * 100 + [f"g{place // 50}" for place in range(100)]
    base, other = [0.0] * 100 + [1.0] * 100, [1.0] * 100 + [0.0] * 50 + [1.0] * 50
    alone = decide(scored(1, base, slices=slices), [scored(2, other, slices=slices)], policy=Policy())
    grouped = decide(
        scored(1, base, slices=slices, groups=groups), [scored(2, other, slices=slices, groups=groups)], policy=Policy()
    )

    assert comparison_of(alone, 2).slices[1].is_harmed
    assert not comparison_of(grouped, 2).slices[1].is_harmed


def test_of_losses_a_hair_everywhere_is_no_harm_and_a_lot_in_the_mean_is(scored: Build) -> None:
    slices = ["a"] * 150 + ["b"] * 150
    noise = np.random.default_rng(0).normal(0, 0.1, 300)
    base = np.full(300, 2.0)
    hair = np.concatenate([base[:150] - 0.3 + noise[:150], base[150:] + 1e-6])
    lot = np.concatenate([base[:150] - 0.3 + noise[:150], base[150:] + 0.05 + noise[150:]])
    policy = Policy(primary="loss")

    decision = decide(scored(1, base, slices=slices), [scored(2, hair, slices=slices)], policy=policy)
    harmed = decide(scored(1, base, slices=slices), [scored(2, lot, slices=slices)], policy=policy)

    assert decision.winner == 2
    assert not comparison_of(decision, 2).slices[1].is_harmed
    assert harmed.winner is None
    assert comparison_of(harmed, 2).slices[1].is_harmed


def test_a_level_that_no_harm_reaches_costs_seconds_and_not_days(
    scored: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    flips: list[int] = []

    def counted(differences: object, *, num_flips: int, seed: int) -> float:
        flips.append(num_flips)
        return 1.0

    monkeypatch.setattr(statistics, "harm_p_of_mean", counted)
    for level in (0.05, 1e-12):
        policy = Policy(primary="loss", slice_alpha=level)
        decide(scored(1, np.ones(9)), [scored(2, np.zeros(9))], policy=policy)

    assert flips == [4_000, 1_000_000]


def test_of_losses_many_small_harms_do_not_hide_behind_few_large_gains(scored: Build) -> None:
    """More items got worse, but in the mean the slice is better: a sign test called that harm."""
    base = np.full(100, 2.0)
    other = np.concatenate([base[:70] + 0.01, base[70:] - 1.0])

    [part] = comparison_of(decide(scored(1, base), [scored(2, other)], policy=Policy(primary="loss")), 2).slices

    assert statistics.harm_p(part.num_worse, part.num_better) < 0.001
    assert part.p_harm > 0.9
    assert not part.is_harmed


def test_a_harm_smaller_than_the_policy_minds_does_not_forbid(scored: Build) -> None:
    base, other = [1.0] * 2000, [0.0] * 8 + [1.0] * 1992

    [small] = comparison_of(decide(scored(1, base), [scored(2, other)], policy=Policy()), 2).slices
    minds = Policy(slice_min_harm=0.0)
    [minded] = comparison_of(decide(scored(1, base), [scored(2, other)], policy=minds), 2).slices

    assert (small.p_harm, small.is_harmed) == (2**-8, False)
    assert minded.is_harmed


def test_many_slices_of_losses_can_still_show_harm(scored: Build) -> None:
    """With few flips no p-value were small enough for the correction over so many slices."""
    slices = [f"s{place // 30:02}" for place in range(900)]
    base = np.full(900, 2.0)
    other = base - 0.2
    other[:30] += np.random.default_rng(0).normal(0.5, 0.1, 30)
    policy = Policy(primary="loss", num_flips=100)

    parts = comparison_of(
        decide(scored(1, base, slices=slices), [scored(2, other, slices=slices)], policy=policy), 2
    ).slices

    assert [part.name for part in parts if part.is_harmed] == ["s00"]


def test_equal_models_asked_in_clusters_are_promoted_no_oftener_than_alpha() -> None:
    """Without clusters the same simulation shows a gain in far more than alpha."""
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 8)
    num_shown = num_naive = 0
    for seed in range(400):
        differences = np.repeat(generator.normal(0, 0.5, 30), 8) + generator.normal(0, 0.5, 240)
        grouped = statistics.summed(differences, clusters)
        num_shown += bool(statistics.max_t(grouped[None], num_flips=400, seed=seed)[0] <= 0.05)
        num_naive += bool(statistics.max_t(differences[None], num_flips=400, seed=seed)[0] <= 0.05)

    assert num_shown / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert num_naive / 400 > 0.15
