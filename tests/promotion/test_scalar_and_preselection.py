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
def test_an_incumbent_without_a_usable_metric_is_an_error(value: float | None) -> None:
    decision = decide_scalar(of(1, value), [of(2, 1.0), of(3, math.nan)], policy=Policy())

    assert (decision.verdict, decision.winner, decision.incumbent_value) == (Verdict.ERROR, None, None)
    assert "version 1" in decision.because
    assert "Nothing was decided" in decision.reports[0].why_not
    assert "it cannot win" in decision.reports[1].why_not.lower()


def test_without_candidates_the_incumbent_stays() -> None:
    assert decide_scalar(of(1, 2.0), [], policy=Policy()).verdict == Verdict.KEEP


def test_the_best_few_by_loss_compete_and_the_others_are_told_why_not() -> None:
    entrants = [
        Entrant(version=1, loss=2.0, step=10),
        Entrant(version=2, loss=None, step=20),
        Entrant(version=3, loss=1.0, step=30),
        Entrant(version=4, loss=math.nan, step=40),
        Entrant(version=5, loss=1.5, step=50),
    ]

    result = preselect(entrants, 2)

    assert result.chosen == (3, 5)
    assert [one.version for one in result.passed_over] == [1, 4, 2]
    assert "2 is not better than the 1.5 of version 5" in result.passed_over[0].why
    assert "not a finite number" in result.passed_over[1].why
    assert "no evaluation loss is recorded" in result.passed_over[2].why


def test_of_equal_losses_the_earlier_step_competes_and_without_a_loss_the_later() -> None:
    equal = [Entrant(version=v, loss=1.0, step=s) for v, s in ((1, None), (2, 200), (3, 100))]
    unknown = [Entrant(version=v, loss=None, step=s) for v, s in ((1, None), (2, 200), (3, 100), (4, None))]

    assert preselect(equal, 3).chosen == (3, 2, 1)
    assert preselect(unknown, 4).chosen == (2, 3, 4, 1)


@given(
    st.lists(st.tuples(st.none() | st.floats(), st.none() | st.integers(0, 9)).map(list), max_size=6).flatmap(
        lambda rows: st.permutations([(v, *row) for v, row in enumerate(rows)])
    ),
    st.integers(1, 4),
)
def test_the_order_of_the_candidates_changes_nothing(
    rows: list[tuple[int, float | None, int | None]], limit: int
) -> None:
    entrants = [Entrant(version=v, loss=loss, step=step) for v, loss, step in rows]

    shuffled, in_order = preselect(entrants, limit), preselect(sorted(entrants, key=lambda e: e.version), limit)

    assert shuffled == in_order
    assert len(shuffled.chosen) == min(limit, len(rows))
    assert len(shuffled.chosen) + len(shuffled.passed_over) == len(rows)


def test_a_limit_of_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        preselect([], 0)
