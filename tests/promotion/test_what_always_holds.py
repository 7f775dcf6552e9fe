"""What must hold of a decision whatever the scores are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import CandidateReport, Decision, Verdict

Build = Callable[..., Scores]


def report_of(decision: Decision, version: int) -> CandidateReport:
    [report] = [one for one in decision.reports if one.version == version]
    assert isinstance(report, CandidateReport)
    return report


scores_in_use = st.sampled_from([0.0, 0.25, 1.0, -3.5, 7.0])
worlds = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(scores_in_use, min_size=n, max_size=n), min_size=2, max_size=5)
)
EAGER = Policy(alpha=0.5, min_effect=0.0, num_flips=200)


def outcome(decision: Decision) -> dict[str, Any]:
    comparisons = {r.version: getattr(r, "comparison", None) for r in decision.reports}
    numbers = {v: None if c is None else (c.p_adjusted, c.lower_bound, c.slices) for v, c in comparisons.items()}
    return {"verdict": decision.verdict, "winner": decision.winner, "numbers": numbers}


@given(worlds, st.data())
@settings(max_examples=80, deadline=None)
def test_nan_never_wins(scored: Build, rows: list[list[float]], data: st.DataObject) -> None:
    incumbent, *rivals = rows
    broken = data.draw(st.sets(st.integers(0, len(rivals) - 1), min_size=1))
    for place in broken:
        item = data.draw(st.integers(0, len(incumbent) - 1))
        rivals[place][item] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))

    decision = decide(scored(1, incumbent), [scored(i + 2, row) for i, row in enumerate(rivals)], policy=EAGER)

    assert decision.winner not in {place + 2 for place in broken}
    assert all("not finite" in report_of(decision, place + 2).why_not for place in broken)
    assert all(f"version {place + 2} was left out" in decision.because for place in broken)


@given(worlds, st.data())
@settings(max_examples=80, deadline=None)
def test_the_order_of_items_and_candidates_changes_nothing(
    scored: Build, rows: list[list[float]], data: st.DataObject
) -> None:
    n = len(rows[0])
    slices = data.draw(st.lists(st.sampled_from(["a", "b"]), min_size=n, max_size=n))
    ids = [f"item-{i}" for i in range(n)]

    def shuffled(version: int, order: list[int]) -> Scores:
        row = rows[version - 1]
        return scored(
            version,
            [row[i] for i in order],
            step=version * 10,
            item_ids=[ids[i] for i in order],
            slices=[slices[i] for i in order],
            losses=[row[i] + 1 for i in order],
        )

    plain, *rivals = (shuffled(version, list(range(n))) for version in range(1, len(rows) + 1))
    mixed, *others = (shuffled(version, data.draw(st.permutations(range(n)))) for version in range(1, len(rows) + 1))
    first = decide(plain, rivals, policy=EAGER)
    second = decide(mixed, data.draw(st.permutations(others)), policy=EAGER)

    assert outcome(first) == outcome(second)


@given(worlds, st.data())
@settings(max_examples=80, deadline=None)
def test_a_candidate_that_is_nowhere_better_never_wins(
    scored: Build, rows: list[list[float]], data: st.DataObject
) -> None:
    incumbent, *rivals = rows
    dominated = [min(a, b) for a, b in zip(incumbent, rivals[0], strict=True)]
    candidates = [scored(2, dominated, step=1), *(scored(i + 3, row, step=9) for i, row in enumerate(rivals[1:]))]

    decision = decide(scored(1, incumbent), candidates, policy=EAGER)

    assert decision.winner != 2
    assert report_of(decision, 2).why_not


@given(worlds)
@settings(max_examples=80, deadline=None)
def test_there_is_one_winner_or_a_reason_for_everybody(scored: Build, rows: list[list[float]]) -> None:
    incumbent, *rivals = rows

    decision = decide(scored(1, incumbent), [scored(i + 2, row) for i, row in enumerate(rivals)], policy=EAGER)

    without_reason = [report.version for report in decision.reports if not report.why_not]
    assert without_reason == ([] if decision.winner is None else [decision.winner])
    assert (decision.verdict == Verdict.PROMOTE) == (decision.winner is not None)
    assert decision.because.endswith(".")
