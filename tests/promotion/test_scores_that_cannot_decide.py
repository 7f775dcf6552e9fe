"""Scores that are not finite, not of the same items or not to be compared: named, and never a silent KEEP."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import Verdict
from tests.promotion.decisions import HALF, Build, N, changed, comparison_of, report_of


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_a_candidate_with_a_score_that_is_not_finite_is_named_and_the_others_are_compared(
    scored: Build, bad: float
) -> None:
    broken = scored(2, [*changed(40, 0)[:-1], bad])

    decision = decide(scored(1, HALF), [broken, scored(3, changed(20, 2))], policy=Policy())

    assert decision.winner == 3
    assert report_of(decision, 2).comparison is None
    assert report_of(decision, 2).why_not == "It cannot win: 1 of its 200 scores are not finite numbers."
    assert "version 2 was left out because 1 of its 200 scores" in decision.because


def test_when_the_only_candidate_is_not_finite_the_reason_says_so(scored: Build) -> None:
    broken = scored(2, changed(40, 0), losses=[math.nan] * N)

    decision = decide(scored(1, HALF, losses=[1.0] * N), [broken], policy=Policy())

    assert decision.verdict == Verdict.KEEP
    assert "version 2 was left out because 200 of its 200 losses are not finite" in decision.because


def _other_items(scored: Build) -> tuple[Scores, Scores]:
    ids = [f"item-{i:04}" for i in range(5, N + 5)]
    return scored(1, HALF), scored(2, HALF, item_ids=ids)


ERRORS: dict[str, tuple[Callable[[Build], tuple[Scores, Scores]], str]] = {
    "other items": (
        _other_items,
        "'item-0000', 'item-0001', 'item-0002' and 2 more only in version 1, 'item-0200', 'item-0201', 'item-0202' "
        "and 2 more only in version 2",
    ),
    "fewer items": (
        lambda scored: (scored(1, HALF), scored(2, HALF[:-1])),
        "different items: 'item-0199' only in version 1;",
    ),
    "more items": (
        lambda scored: (scored(1, HALF[:-1]), scored(2, HALF)),
        "different items: 'item-0199' only in version 2;",
    ),
    "other fingerprint": (
        lambda scored: (scored(1, HALF), scored(2, HALF, fingerprint="bf16")),
        "version 2 and version 1 were scored in different ways: fingerprint bf16 and same",
    ),
    "other slices": (
        lambda scored: (scored(1, HALF), scored(2, HALF, slices=["x", *["all"] * (N - 1)])),
        "disagree about the slice of 'item-0000'",
    ),
    "losses on one side": (
        lambda scored: (scored(1, HALF, losses=HALF), scored(2, HALF)),
        "only one has losses per item",
    ),
    "items twice": (
        lambda scored: (scored(1, HALF), scored(2, HALF, item_ids=["a", "a", *map(str, range(N - 2))])),
        "version 2 has items twice: 'a'",
    ),
    "incumbent not finite": (
        lambda scored: (scored(1, [math.nan, *HALF[1:]]), scored(2, HALF)),
        "version 1, which holds the alias, cannot be compared: 1 of its 200 scores are not finite numbers",
    ),
    "no items": (lambda scored: (scored(1, []), scored(2, [])), "the test set is empty"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_scores_that_cannot_be_compared_are_an_error_that_names_what_differs(scored: Build, case: str) -> None:
    build, words = ERRORS[case]
    incumbent, candidate = build(scored)

    decision = decide(incumbent, [candidate], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.ERROR, None)
    assert words in decision.because
    assert "score all of them anew" in decision.because
    assert words.removesuffix(";") in report_of(decision, 2).why_not


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"fingerprint": "bf16"}, "scored in different ways"),
        ({"item_ids": [f"other-{i}" for i in range(N)]}, "scored on different items"),
        ({"item_ids": ["a", "a", *map(str, range(N - 2))]}, "has items twice"),
    ],
)
def test_one_odd_candidate_is_left_out_and_the_others_are_compared(
    scored: Build, odd: dict[str, object], words: str
) -> None:
    rivals = [scored(2, changed(20, 2)), scored(3, changed(40, 0), **odd)]

    decision = decide(scored(1, HALF), rivals, policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.PROMOTE, 2)
    assert words in report_of(decision, 3).why_not


def test_an_error_in_many_candidates_names_a_few(scored: Build) -> None:
    rivals = [scored(version, HALF, fingerprint=f"f{version}") for version in range(2, 8)]

    decision = decide(scored(1, HALF), rivals, policy=Policy())

    assert "and 3 more such problems" in decision.because


def test_more_candidates_than_the_policy_allows_is_a_mistake_of_the_caller(scored: Build) -> None:
    rivals = [scored(version, HALF) for version in range(2, 5)]

    with pytest.raises(ValueError, match="3 candidates, and the policy compares at most 2"):
        decide(scored(1, HALF), rivals, policy=Policy(max_candidates=2))


def test_one_version_twice_is_a_mistake_of_the_caller(scored: Build) -> None:
    with pytest.raises(ValueError, match="twice"):
        decide(scored(1, HALF), [scored(2, HALF), scored(2, HALF)], policy=Policy())


def test_scores_of_another_length_than_the_items_are_a_mistake_of_the_caller(scored: Build) -> None:
    with pytest.raises(ValueError, match="version 2: 2 items"):
        scored(2, [1.0, 0.0, 1.0], item_ids=["a", "b"], slices=["x", "x"])


def test_one_item_is_decided_without_a_warning(scored: Build) -> None:
    strict = Policy(alpha=0.6, guardrail_forbids="possible_rise")
    decision = decide(scored(1, [0.0], losses=[1.0]), [scored(2, [1.0], losses=[1.0])], policy=strict)

    assert decision.verdict == Verdict.INCONCLUSIVE
    assert comparison_of(decision, 2).standard_error == math.inf
