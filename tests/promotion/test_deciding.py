"""What the rule decides, and what it says about each candidate."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.verdicts import Verdict
from tests.promotion.decisions import HALF, Build, N, changed, comparison_of, report_of


def test_a_candidate_whose_gain_is_shown_is_promoted(scored: Build) -> None:
    decision = decide(scored(1, HALF), [scored(2, changed(20, 2))], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.PROMOTE, 2)
    assert report_of(decision, 2).why_not == ""
    numbers = comparison_of(decision, 2)
    assert (numbers.num_better, numbers.num_worse, numbers.num_items) == (20, 2, N)
    assert (numbers.incumbent_mean, numbers.candidate_mean) == (0.5, pytest.approx(0.59))
    assert numbers.difference == pytest.approx(0.09)
    assert numbers.lower_bound > 0
    assert numbers.p_adjusted <= 0.05
    assert "9.0 points better than version 1 on 200 items" in decision.because
    assert "its loss was not measured" in decision.because


def test_a_gain_that_may_be_luck_is_inconclusive(scored: Build) -> None:
    decision = decide(scored(1, HALF), [scored(2, changed(6, 4))], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.INCONCLUSIVE, None)
    assert "stays for now: version 2 is 1.0 points better" in decision.because
    assert "may be luck" in report_of(decision, 2).why_not


def test_the_threshold_is_alpha_itself(scored: Build) -> None:
    """10 better and 4 worse: p is 0.09 by the exact test."""
    rivals = [scored(2, changed(10, 4))]

    strict, lenient = (decide(scored(1, HALF), rivals, policy=Policy(alpha=alpha)) for alpha in (0.08, 0.1))

    assert (strict.verdict, lenient.verdict) == (Verdict.INCONCLUSIVE, Verdict.PROMOTE)


def test_a_worse_candidate_keeps_the_incumbent(scored: Build) -> None:
    decision = decide(scored(1, HALF), [scored(2, changed(4, 6))], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.KEEP, None)
    assert decision.because == "Version 1 stays: no candidate is better; the nearest, version 2, is 1.0 points worse."
    assert report_of(decision, 2).why_not == "It is not better on these items but 1.0 points worse."


def test_without_candidates_the_incumbent_stays(scored: Build) -> None:
    decision = decide(scored(1, HALF), [], policy=Policy())

    assert (decision.verdict, decision.reports) == (Verdict.KEEP, ())
    assert "no candidate that can be compared" in decision.because


def test_a_gain_that_is_shown_but_too_small_to_matter_is_not_promoted(scored: Build) -> None:
    decision = decide(scored(1, HALF), [scored(2, changed(10, 0))], policy=Policy(min_effect=0.06))

    assert decision.verdict == Verdict.INCONCLUSIVE
    assert "gain of 5.0 points is less than the 6.0 points" in report_of(decision, 2).why_not


def test_a_slice_with_evidence_of_harm_forbids_promotion(scored: Build) -> None:
    slices = ["add"] * 20 + ["copy"] * 180
    candidate = scored(2, changed(60, 15), slices=slices)

    decision = decide(scored(1, HALF, slices=slices), [candidate], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.KEEP, None)
    assert "evidence that it is worse on add" in report_of(decision, 2).why_not
    assert "version 2 is 22.5 points better on these items, but there is evidence" in decision.because
    parts = {part.name: part for part in comparison_of(decision, 2).slices}
    assert (parts["add"].num_items, parts["add"].num_worse, parts["add"].is_harmed) == (20, 15, True)
    assert parts["add"].difference == pytest.approx(-0.75)
    assert parts["add"].p_harm == pytest.approx(2**-15)
    assert parts["add"].p_harm_holm == pytest.approx(2 * 2**-15)
    assert not parts["copy"].is_harmed


def test_many_harmed_slices_are_counted_beyond_the_first(scored: Build) -> None:
    slices = [f"s{i // 20}" for i in range(N)]
    decision = decide(scored(1, [1.0] * N, slices=slices), [scored(2, [0.0] * N, slices=slices)], policy=Policy())

    assert "worse on s0, s1, s2, s3, s4 and 5 more slices" in report_of(decision, 2).why_not


def test_chance_in_one_of_many_slices_does_not_forbid(scored: Build) -> None:
    """5 of 5 worse has p = 0.03, which alone would be harm; among ten slices it happens."""
    slices = [f"s{i // 20}" for i in range(N)]
    decision = decide(scored(1, HALF, slices=slices), [scored(2, changed(40, 5), slices=slices)], policy=Policy())

    assert comparison_of(decision, 2).slices[0].p_harm == pytest.approx(2**-5)
    assert decision.winner == 2


@pytest.mark.parametrize(
    ("rise", "verdict", "words"),
    [
        (0.0, Verdict.PROMOTE, ""),
        (0.019, Verdict.INCONCLUSIVE, "not ruled out that its loss rises by more than 0.02 nats"),
        (0.1, Verdict.KEEP, "its loss rises by more than 0.02 nats"),
    ],
)
def test_a_loss_that_may_have_risen_forbids_promotion_where_the_policy_says_so(
    scored: Build, rise: float, verdict: Verdict, words: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, N)
    before = np.full(N, 2.0)
    after = before + noise - noise.mean() + rise

    strict = Policy(guardrail_forbids="possible_rise")
    decision = decide(scored(1, HALF, losses=before), [scored(2, changed(30, 2), losses=after)], policy=strict)

    assert decision.verdict == verdict
    assert words in report_of(decision, 2).why_not.lower()
    guardrail = comparison_of(decision, 2).guardrail
    assert guardrail is not None
    assert guardrail.difference_nats == pytest.approx(rise, abs=1e-9)
    assert guardrail.lower_bound_nats < guardrail.difference_nats < guardrail.upper_bound_nats
    assert guardrail.margin_nats == 0.02


@pytest.mark.parametrize(("rise", "winner"), [(0.0, 2), (0.019, 2), (0.024, 2), (0.1, None)])
def test_a_loss_is_shown_to_have_risen_before_that_forbids_promotion(
    scored: Build, rise: float, winner: int | None
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, N)
    before = np.full(N, 2.0)
    after = before + noise - noise.mean() + rise

    decision = decide(scored(1, HALF, losses=before), [scored(2, changed(30, 2), losses=after)], policy=Policy())

    assert decision.winner == winner
    if winner is None:
        assert "its loss rises by more than 0.02 nats" in report_of(decision, 2).why_not.lower()
    elif rise > 0:
        assert "its loss is not shown to rise by more than 0.02 nats" in decision.because


def test_losses_that_are_the_same_pass_the_guardrail_even_on_few_items(scored: Build) -> None:
    losses = [1.0] * 12

    decision = decide(scored(1, [0.0] * 12, losses=losses), [scored(2, [1.0] * 12, losses=losses)], policy=Policy())

    assert decision.winner == 2
    assert "its loss is shown not to rise by more than 0.02 nats" in decision.because


def test_a_lower_loss_wins_where_loss_is_the_primary_score(scored: Build) -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(2, 0.5, N)
    lower, higher = (base + generator.normal(shift, 0.1, N) for shift in (-0.05, 0.05))

    decision = decide(scored(1, base), [scored(2, higher), scored(3, lower)], policy=Policy(primary="loss"))

    assert decision.winner == 3
    assert comparison_of(decision, 3).difference == pytest.approx(float((base - lower).mean()))
    assert "nats better than version 1" in decision.because
    assert "nats worse" in report_of(decision, 2).why_not


def test_of_candidates_within_a_standard_error_of_the_best_the_earliest_step_is_taken(scored: Build) -> None:
    rivals = [
        scored(2, changed(31, 1), step=400),
        scored(3, changed(30, 1), step=300),
        scored(4, changed(15, 1), step=100),
        scored(5, changed(30, 1)),
    ]

    decision = decide(scored(1, HALF), rivals, policy=Policy())

    assert decision.winner == 3
    assert "version 3 is an earlier step and not clearly worse" in report_of(decision, 2).why_not
    assert report_of(decision, 4).why_not == "It passed, but version 3 is better by 7.5 points."
    assert "It passed, but version 3 is as good, of an earlier step" in report_of(decision, 5).why_not


def test_a_candidate_equal_to_the_best_but_later_is_passed_over(scored: Build) -> None:
    rivals = [scored(3, changed(30, 1), step=300), scored(2, changed(30, 1), step=200)]

    assert decide(scored(1, HALF), rivals, policy=Policy()).winner == 2


def test_steps_of_another_training_are_not_earlier(scored: Build) -> None:
    """A new training begins at step 0 again: its first checkpoints are not the earlier ones of the old training."""
    old = scored(2, changed(30, 1), step=300, training="a")
    rivals = [old, scored(3, changed(29, 1), step=100, training="b"), scored(4, changed(30, 1), step=100, training="b")]

    decision = decide(scored(1, HALF), rivals, policy=Policy())

    assert decision.winner == 2
    assert "version 2 is better by" in report_of(decision, 3).why_not
    assert "version 2 is as good" in report_of(decision, 4).why_not
