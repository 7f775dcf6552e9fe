"""Where a version has one number only, and who is scored at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.promotion.policy import Policy
from pipeline.promotion.preselection import Entrant, preselect
from pipeline.promotion.scalar import ScalarScore, decide_scalar
from pipeline.promotion.verdicts import Verdict


def of(version: int, value: float | None, step: int | None = None) -> ScalarScore:
    return ScalarScore(version=version, step=step, value=value)


def test_the_lowest_loss_wins_and_the_record_says_point_estimate() -> None:
    decision = decide_scalar(of(1, 2.0), [of(2, 1.9), of(3, 1.5), of(4, 2.5)], policy=Policy())

    assert (decision.verdict, decision.winner, decision.method) == (Verdict.PROMOTE, 3, "point estimate")
    assert decision.because == "Version 3 has a better eval_loss than version 1, by 0.5 (point estimate)."
    assert [report.gain for report in decision.reports] == pytest.approx([0.1, 0.5, -0.5])
    assert "would be enough, but that of version 3 is better" in decision.reports[0].why_not
    assert decision.reports[1].why_not == ""
    assert "worse by 0.5, and it must be better" in decision.reports[2].why_not


def test_a_metric_where_higher_is_better_is_read_the_other_way() -> None:
    policy = Policy(score_metric="eval_accuracy", lower_is_better=False)

    assert decide_scalar(of(1, 0.5), [of(2, 0.4), of(3, 0.6)], policy=policy).winner == 3


def test_a_gain_below_min_delta_keeps_the_incumbent() -> None:
    decision = decide_scalar(of(1, 2.0), [of(2, 1.95)], policy=Policy(min_delta=0.1))

    assert (decision.verdict, decision.winner) == (Verdict.KEEP, None)
    assert decision.because == (
        "Version 1 stays: no candidate has a better eval_loss by at least 0.1 (point estimate)."
    )
    assert "better by 0.05, and at least 0.1 is needed" in decision.reports[0].why_not


def test_an_equal_metric_keeps_the_incumbent_even_at_min_delta_zero() -> None:
    decision = decide_scalar(of(1, 2.0), [of(2, 2.0)], policy=Policy())

    assert decision.verdict == Verdict.KEEP
    assert "exactly equal" in decision.reports[0].why_not


def test_of_equal_metrics_the_earliest_step_wins() -> None:
    rivals = [of(2, 1.5), of(3, 1.5, step=300), of(4, 1.5, step=200)]

    decision = decide_scalar(of(1, 2.0), rivals, policy=Policy())

    assert decision.winner == 4
    assert "that of version 4 is as good, of an earlier step" in decision.reports[1].why_not


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "missing"), (math.nan, "not a finite"), (-math.inf, "not a finite"), (math.inf, "not a finite")],
)
def test_a_missing_or_nan_metric_never_wins_and_is_named(value: float | None, words: str) -> None:
    decision = decide_scalar(of(1, 2.0), [of(2, value)], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.KEEP, None)
    assert decision.reports[0].value is None
    assert words in decision.reports[0].why_not
    assert "version 2 was left out" in decision.because


@pytest.mark.parametrize("value", [None, math.nan])
def test_an_incumbent_without_a_usable_metric_is_no_bar(value: float | None) -> None:
    decision = decide_scalar(of(1, value), [of(2, 1.5), of(3, math.nan), of(4, 1.0)], policy=Policy())

    assert (decision.verdict, decision.winner, decision.incumbent_value) == (Verdict.PROMOTE, 4, None)
    assert "Version 1 is no bar, since its eval_loss is" in decision.because
    assert "that of version 4 is better" in decision.reports[0].why_not
    assert "it cannot win" in decision.reports[1].why_not.lower()


def test_where_nobody_has_the_metric_the_incumbent_stays() -> None:
    decision = decide_scalar(of(1, None), [of(2, None)], policy=Policy())

    assert (decision.verdict, decision.winner) == (Verdict.KEEP, None)
    assert decision.reports[0].why_not == "It cannot win: its eval_loss is missing."


def test_steps_of_two_trainings_are_not_compared() -> None:
    old = ScalarScore(version=2, step=900, value=1.5, training="a")
    new = ScalarScore(version=3, step=100, value=1.5, training="b")

    decision = decide_scalar(of(1, 2.0), [new, old], policy=Policy())

    assert decision.winner == 2
    assert "as good, of an earlier step or training" in decision.reports[0].why_not


def test_without_candidates_the_incumbent_stays() -> None:
    assert decide_scalar(of(1, 2.0), [], policy=Policy()).verdict == Verdict.KEEP


def test_the_best_few_by_the_metric_compete_and_the_others_are_told_why_not() -> None:
    entrants = [
        Entrant(version=1, value=2.0),
        Entrant(version=2, value=None),
        Entrant(version=3, value=1.0),
        Entrant(version=4, value=math.nan),
        Entrant(version=5, value=1.5),
    ]

    result = preselect(entrants, 2)

    assert result.chosen == (3, 5)
    assert [one.version for one in result.passed_over] == [1, 4, 2]
    assert "2 is not better than the 1.5 of version 5" in result.passed_over[0].why
    assert "not a finite number" in result.passed_over[1].why
    assert "no eval_loss of its own is recorded" in result.passed_over[2].why


def test_where_higher_is_better_the_highest_compete() -> None:
    entrants = [Entrant(version=v, value=value) for v, value in ((1, 0.78), (2, 0.94), (3, 0.90), (4, math.inf))]

    result = preselect(entrants, 2, metric="eval_accuracy", lower_is_better=False)

    assert result.chosen == (2, 3)
    assert "its eval_accuracy of 0.78 is not better than the 0.9 of version 3" in result.passed_over[0].why


def test_of_equal_metrics_the_earlier_version_competes_and_without_one_the_later() -> None:
    equal = [Entrant(version=v, value=1.0) for v in (2, 1, 3)]
    unknown = [Entrant(version=v, value=None) for v in (2, 1, 3)]

    assert preselect(equal, 3).chosen == (1, 2, 3)
    assert preselect(unknown, 3).chosen == (3, 2, 1)


@given(
    st.lists(st.none() | st.floats(), max_size=6).flatmap(lambda values: st.permutations(list(enumerate(values)))),
    st.integers(1, 4),
    st.booleans(),
)
def test_the_order_of_the_candidates_changes_nothing(
    rows: list[tuple[int, float | None]], limit: int, lower_is_better: bool
) -> None:
    entrants = [Entrant(version=v, value=value) for v, value in rows]
    in_order = sorted(entrants, key=lambda one: one.version)

    shuffled, sorted_ones = (preselect(some, limit, lower_is_better=lower_is_better) for some in (entrants, in_order))

    assert shuffled == sorted_ones
    assert len(shuffled.chosen) == min(limit, len(rows))
    assert len(shuffled.chosen) + len(shuffled.passed_over) == len(rows)


def test_a_limit_of_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        preselect([], 0)
