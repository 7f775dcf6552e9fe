from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.asks import Sampling
from server.engine.drawing import BLOCK_TOKENS, draw, inverse_cdf, nucleus
from server.engine.sampling import Sampler, pick_all


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
    probabilities = (torch.tensor(weights, dtype=torch.float64) / sum(weights)).sort(descending=True).values
    is_inside, is_enough = nucleus(probabilities[None], probabilities.sum()[None], [top_p])
    inside, outside = probabilities[is_inside[0]], probabilities[~is_inside[0]]

    assert bool(is_enough)
    assert inside.sum() >= top_p - 1e-9
    assert inside.sum() - inside.min() <= top_p + 1e-9
    assert not len(outside) or outside.max() <= inside.min()


@given(
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=20).filter(any),
    st.floats(0.0, 1.0, exclude_max=True),
)
@settings(deadline=None)
def test_a_token_of_no_weight_is_never_taken(weights: list[float], uniform: float) -> None:
    index = inverse_cdf(torch.tensor([weights], dtype=torch.float64), [uniform])[0]

    assert weights[index] > 0


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, math.nextafter(1, 0)])
def test_the_drawn_token_is_where_the_cumulative_weight_passes_the_uniform(uniform: float) -> None:
    weights = torch.rand(3 * BLOCK_TOKENS + 7, generator=torch.Generator().manual_seed(0))
    weights[-5:] = 0
    expected = int(torch.searchsorted(weights.double().cumsum(0), uniform * float(weights.double().sum()), right=True))
    last = len(weights) - 6

    assert inverse_cdf(weights[None], [uniform]) == [min(expected, last)]


def plainly(logits_V: torch.Tensor, one: Sampling, uniform: float) -> int:
    """The same choice, one step after the other over the whole sorted vocabulary, in float64."""
    probabilities = torch.softmax(logits_V.double() / one.temperature, -1)
    best = probabilities.sort(descending=True, stable=True)
    kept = best.values.clone()
    kept[one.top_k or len(kept) :] = 0
    kept = kept / kept.sum()
    outside = kept.cumsum(0) - kept >= one.top_p
    outside[0] = False
    kept[outside] = 0
    kept[kept < one.min_p * kept[0]] = 0
    weights = torch.zeros_like(kept).scatter(0, best.indices, kept)
    return int(torch.searchsorted(weights.cumsum(0), uniform * float(weights.sum()), right=True))


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.999]),
    top_k=st.sampled_from([0, 1, 40, 300, 600]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)


@given(st.lists(samplings, min_size=1, max_size=6), st.integers(0, 1000), st.sampled_from([0.1, 1.0, 4.0]))
@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("num_tokens", [100, 600, 9000])
def test_rows_are_drawn_together_as_each_would_be_alone(
    num_tokens: int, wanted: list[Sampling], seed: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_RV = torch.randn(len(wanted), num_tokens, generator=generator) * spread
    uniforms = torch.rand(len(wanted), generator=generator).tolist()
    together = draw(logits_RV, wanted, uniforms)

    assert together == [draw(logits_RV[row : row + 1], [one], [uniforms[row]])[0] for row, one in enumerate(wanted)]
    assert together == [plainly(logits_RV[row], one, uniforms[row]) for row, one in enumerate(wanted)]


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    logits_RV = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    logits_RV[1, 7] = math.nan
    ways = [Sampling(seed=1), Sampling(seed=2, top_p=0.9), Sampling(temperature=0), Sampling(seed=3, top_k=5)]
    picked = pick_all(logits_RV, [Sampler(one) for one in ways])
    alone = [pick_all(logits_RV[row : row + 1], [Sampler(one)])[0] for row, one in enumerate(ways)]

    assert picked == alone
    assert [token is None for token in picked] == [False, True, False, False]
