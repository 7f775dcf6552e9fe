"""The statistics equal exact enumeration and the textbook's own formulas."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.promotion import statistics


def by_enumeration(differences: list[list[float]]) -> list[float]:
    """Max-T over all 2^n sign patterns, in plain Python."""
    norms = [math.sqrt(sum(d * d for d in row)) or math.inf for row in differences]
    observed = [sum(row) / norm for row, norm in zip(differences, norms, strict=True)]
    best = [
        max(
            sum(s * d for s, d in zip(signs, row, strict=True)) / norm
            for row, norm in zip(differences, norms, strict=True)
        )
        for signs in itertools.product((-1, 1), repeat=len(differences[0]))
    ]
    return [sum(b >= t - 1e-9 for b in best) / len(best) for t in observed]


rows_of_differences = st.tuples(st.integers(1, 3), st.integers(1, 7)).flatmap(
    lambda shape: st.lists(
        st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@given(rows_of_differences)
@settings(max_examples=60, deadline=None)
def test_max_t_equals_enumeration_of_all_sign_flips_where_that_is_possible(differences: list[list[float]]) -> None:
    p = statistics.max_t(np.array(differences), num_flips=4000, seed=0)

    assert p == pytest.approx(by_enumeration(differences))


def test_max_t_by_random_flips_comes_near_the_enumeration() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1.0, size=(3, 12))
    num_flips = 4000  # less than 2^12, so they are drawn

    p = statistics.max_t(differences, num_flips=num_flips, seed=1)

    exact = np.array(by_enumeration(differences.tolist()))
    assert len(set(p)) == 3
    assert np.all(np.abs(p - exact) <= 4 * np.sqrt(exact * (1 - exact) / num_flips) + 1 / num_flips)


@pytest.mark.parametrize(("better", "worse"), [(5, 0), (7, 2), (3, 3), (1, 6)])
def test_max_t_of_one_candidate_with_right_or_wrong_scores_is_the_exact_mcnemar_test(better: int, worse: int) -> None:
    differences = np.array([[1.0] * better + [-1.0] * worse + [0.0] * 20])

    p = statistics.max_t(differences, num_flips=4000, seed=0)

    assert p[0] == pytest.approx(stats.binomtest(better, better + worse, 0.5, alternative="greater").pvalue)


def test_max_t_is_one_for_candidates_that_change_nothing() -> None:
    assert statistics.max_t(np.zeros((2, 4)), num_flips=100, seed=0).tolist() == [1.0, 1.0]


def test_a_p_value_by_random_flips_is_never_zero() -> None:
    assert statistics.max_t(np.ones((1, 200)), num_flips=999, seed=0).tolist() == [1 / 1000]


def test_max_t_does_not_depend_on_the_unit_of_the_score() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, size=(2, 50))

    same = [statistics.max_t(differences * unit, num_flips=500, seed=0).tolist() for unit in (1, 2.0**-600, 2.0**600)]

    assert same[0] == same[1] == same[2]


def test_more_candidates_make_the_same_gain_less_convincing() -> None:
    generator = np.random.default_rng(5)
    differences = generator.normal(0, 1, size=(10, 60))
    differences[0] += 0.25

    alone = statistics.max_t(differences[:1], num_flips=4000, seed=0)[0]
    among_ten = statistics.max_t(differences, num_flips=4000, seed=0)[0]

    assert alone < among_ten <= 10 * alone + 0.02


def test_one_seed_gives_one_answer_and_another_seed_another() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, size=(2, 50))

    first, again, other = (statistics.max_t(differences, num_flips=500, seed=seed).tolist() for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_the_memory_of_max_t_is_bounded() -> None:
    differences = np.random.default_rng(0).normal(0, 1, size=(2, 50_000))

    tracemalloc.start()
    statistics.max_t(differences, num_flips=400, seed=0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 80e6  # all flips at once would be 160 MB and a copy of it


def test_the_lower_bound_of_right_or_wrong_scores_is_bonett_and_prices() -> None:
    differences = np.array([1.0] * 9 + [-1.0] * 3 + [0.0] * 28)
    better, worse = 10 / 42, 4 / 42
    expected = better - worse - stats.norm.ppf(0.95) * math.sqrt((better + worse - (better - worse) ** 2) / 42)

    assert statistics.lower_bound(differences, alpha=0.05) == pytest.approx(expected)


def test_the_lower_bound_of_other_scores_is_the_paired_t_bound() -> None:
    differences = np.random.default_rng(1).normal(0.2, 1, size=30)
    expected = stats.ttest_1samp(differences, 0, alternative="greater").confidence_interval(0.9).low

    assert statistics.lower_bound(differences, alpha=0.1) == pytest.approx(expected)
    assert statistics.standard_error(differences) == pytest.approx(stats.sem(differences))


def test_one_item_bounds_nothing() -> None:
    assert statistics.t_lower_bound(np.array([0.3]), alpha=0.05) == -math.inf
    assert statistics.standard_error(np.array([0.3])) == math.inf


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (0, 5), (5, 0), (9, 3), (40, 31)])
def test_harm_is_the_exact_sign_test(worse: int, better: int) -> None:
    expected = stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue if worse + better else 1.0

    assert statistics.harm_p(worse, better) == pytest.approx(expected)


@given(st.lists(st.floats(0.001, 1), max_size=6))
@settings(deadline=None)
def test_holm_is_the_closed_test_with_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected when every set of hypotheses with it in is: Marcus, Peritz & Gabriel 1976."""
    places = range(len(p_values))
    subsets = [set(c) for size in places for c in itertools.combinations(places, size + 1)]
    expected = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in places]

    assert statistics.holm(p_values) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("num_items", "discordance", "alpha", "gain"),
    [(2231, 0.20, 0.01, 0.03), (1562, 0.14, 0.01, 0.03), (347, 0.14, 0.05, 0.05), (687, 0.10, 0.05, 0.03)],
)
def test_the_smallest_detectable_gain_is_that_of_the_published_tables(
    num_items: int, discordance: float, alpha: float, gain: float
) -> None:
    assert statistics.smallest_detectable(num_items, discordance, alpha) == pytest.approx(gain, rel=0.02)


@given(st.integers(20, 5000), st.floats(0.02, 0.9), st.floats(0.001, 0.2), st.floats(0.5, 0.99))
@settings(deadline=None)
def test_at_the_smallest_detectable_gain_the_power_is_what_was_asked(
    num_items: int, discordance: float, alpha: float, power: float
) -> None:
    gain = statistics.smallest_detectable(num_items, discordance, alpha, power)

    if math.isfinite(gain):
        reached = statistics.power_at(gain, num_items=num_items, discordance=discordance, alpha=alpha)
        assert reached == pytest.approx(power, abs=1e-6)
    else:
        largest = statistics.power_at(discordance * 0.999, num_items=num_items, discordance=discordance, alpha=alpha)
        assert largest < power + 0.01


def test_the_power_formula_agrees_with_a_simulation_of_the_exact_test() -> None:
    num_items, discordance, gain = 500, 0.14, 0.03
    generator = np.random.default_rng(0)
    chances = [(discordance + gain) / 2, (discordance - gain) / 2, 1 - discordance]
    counts = generator.multinomial(num_items, chances, size=4000)
    shown = np.mean([statistics.harm_p(int(b), int(c)) <= 0.05 for b, c, _ in counts])

    predicted = statistics.power_at(gain, num_items=num_items, discordance=discordance, alpha=0.05)

    assert predicted == pytest.approx(shown, abs=0.06)  # the exact test is a little conservative


def test_too_few_items_detect_nothing() -> None:
    assert statistics.smallest_detectable(2, 0.1, 0.001) == math.inf  # no gain at all
    assert statistics.smallest_detectable(30, 0.05, 0.05) == math.inf  # none that so few differences allow


def test_a_gain_above_the_discordance_means_that_more_items_differ() -> None:
    assert statistics.power_at(0.3, num_items=100, discordance=0.1, alpha=0.05) > 0.99


def test_the_smallest_detectable_mean_is_the_normal_approximation() -> None:
    expected = (stats.norm.ppf(0.8) + stats.norm.ppf(0.95)) * 0.5 / math.sqrt(100)

    assert statistics.smallest_detectable_mean(100, 0.5, 0.05) == pytest.approx(expected)
