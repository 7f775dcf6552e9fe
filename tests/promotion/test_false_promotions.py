"""Equal models: how often the rule moves the alias for nothing. The long form is benchmarks/promotion_rule.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.promotion import statistics
from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores

ALPHA = 0.05
NUM_DECISIONS = 400


def equal_models(generator: np.random.Generator, *, num_models: int, num_items: int) -> np.ndarray:
    """Right-or-wrong scores of equally good models that agree about most items, as checkpoints of one training do."""
    difficulty = generator.normal(0, 2, num_items)
    chance = 1 / (1 + np.exp(difficulty[None] - 1.35 + generator.normal(0, 0.6, (num_models, num_items))))
    luck = np.where(
        generator.random((num_models, num_items)) < 0.85,
        generator.random(num_items),
        generator.random((num_models, num_items)),
    )
    return (luck < chance).astype(np.float64)


def bound() -> float:
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / NUM_DECISIONS)


@pytest.mark.parametrize("num_candidates", [1, 5])
def test_equal_candidates_are_promoted_no_oftener_than_alpha(
    scored: Callable[..., Scores], num_candidates: int
) -> None:
    generator = np.random.default_rng(num_candidates)
    num_promoted = 0
    for seed in range(NUM_DECISIONS):
        rows = equal_models(generator, num_models=num_candidates + 1, num_items=200)
        incumbent, *rivals = (scored(version, row) for version, row in enumerate(rows))
        policy = Policy(alpha=ALPHA, num_flips=400, min_effect=0.0, seed=seed)
        num_promoted += decide(incumbent, rivals, policy=policy).winner is not None

    assert num_promoted / NUM_DECISIONS <= bound()


def test_twenty_equal_candidates_are_promoted_no_oftener_than_alpha_and_argmax_would_do_it_mostly() -> None:
    generator = np.random.default_rng(20)
    num_promoted = num_moved_by_argmax = 0
    for seed in range(NUM_DECISIONS):
        rows = equal_models(generator, num_models=21, num_items=200)
        differences = rows[1:] - rows[0]
        num_promoted += bool((statistics.max_t(differences, num_flips=400, seed=seed) <= ALPHA).any())
        num_moved_by_argmax += bool((differences.mean(axis=1) > 0).any())

    assert num_promoted / NUM_DECISIONS <= bound()
    assert num_moved_by_argmax / NUM_DECISIONS > 0.5


def test_the_rule_is_not_safe_by_never_firing(scored: Callable[..., Scores]) -> None:
    generator = np.random.default_rng(0)
    num_promoted = 0
    for seed in range(100):
        rows = equal_models(generator, num_models=4, num_items=200)
        rows[3] = np.maximum(rows[3], generator.random(200) < 0.3)
        incumbent, *rivals = (scored(version, row) for version, row in enumerate(rows))
        num_promoted += decide(incumbent, rivals, policy=Policy(num_flips=400, seed=seed)).winner == 3

    assert num_promoted > 60
