from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.asks import Sampling
from server.engine.sampling import Sampler, inverse_cdf, nucleus


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def picks(number: int, sampling: Sampling, *values: float) -> list[int]:
    sampler = Sampler(sampling)
    return [sampler.pick(logits(*values)) for _ in range(number)]


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert picks(5, Sampling(temperature=0), 0.1, 3.0, 2.9) == [1] * 5


@pytest.mark.parametrize("temperature", [1e-320, 1e-9, 1e-4])
def test_a_tiny_temperature_is_greedy_and_never_overflows(temperature: float) -> None:
    assert picks(5, Sampling(temperature=temperature), 0.1, 3.0e4, -3.0e4) == [1] * 5


def test_the_same_seed_takes_the_same_tokens() -> None:
    values = [0.1 * number for number in range(20)]

    assert picks(50, Sampling(seed=7), *values) == picks(50, Sampling(seed=7), *values)
    assert picks(50, Sampling(seed=7), *values) != picks(50, Sampling(seed=8), *values)
    assert picks(50, Sampling(seed=7), *values) != picks(50, Sampling(seed=-7), *values)


def test_without_a_seed_answers_differ() -> None:
    values = [0.0] * 100

    assert picks(30, Sampling(), *values) != picks(30, Sampling(), *values)


def test_frequencies_follow_the_probabilities() -> None:
    counts = Counter(picks(4000, Sampling(seed=1), math.log(0.5), math.log(0.3), math.log(0.2)))

    assert counts[0] / 4000 == pytest.approx(0.5, abs=0.03)
    assert counts[2] / 4000 == pytest.approx(0.2, abs=0.03)


def test_top_p_zero_still_has_the_likeliest_token() -> None:
    assert picks(5, Sampling(top_p=0.0, seed=1), 0.0, 1.0, 0.5) == [1] * 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_fail(bad: float, temperature: float) -> None:
    with pytest.raises(FloatingPointError):
        Sampler(Sampling(temperature=temperature)).pick(logits(0.0, bad, 1.0))


def test_tokens_ruled_out_by_the_model_are_never_taken() -> None:
    assert set(picks(200, Sampling(seed=3, temperature=2.0), 0.0, -math.inf, 0.0)) == {0, 2}


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50).filter(lambda weights: sum(weights) > 1e-3),
    st.floats(0.01, 0.999),
)
@settings(deadline=None)
def test_the_nucleus_is_the_smallest_set_of_likeliest_tokens_with_that_mass(weights: list[float], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    kept = nucleus(probabilities, top_p)
    inside, outside = probabilities[kept > 0], probabilities[kept == 0]

    assert inside.sum() >= top_p - 1e-9
    assert inside.sum() - inside.min() <= top_p + 1e-9
    assert not len(outside) or outside.max() <= inside.min()


@given(
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=20).filter(any),
    st.floats(0.0, 1.0, exclude_max=True),
)
@settings(deadline=None)
def test_a_token_of_no_weight_is_never_taken(weights: list[float], uniform: float) -> None:
    index = inverse_cdf(torch.tensor(weights, dtype=torch.float64), uniform)

    assert weights[index] > 0
