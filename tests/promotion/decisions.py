"""Two hundred items, scores of candidates, and what a decision says of one of them."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import CandidateReport, Comparison, Decision

Build = Callable[..., Scores]
N = 200
HALF = [1.0] * 100 + [0.0] * 100


def changed(better: int, worse: int) -> list[float]:
    """HALF with so many wrong answers made right and so many right ones made wrong, at both ends."""
    return [0.0] * worse + [1.0] * (100 - worse) + [0.0] * (100 - better) + [1.0] * better


def report_of(decision: Decision, version: int) -> CandidateReport:
    [report] = [one for one in decision.reports if one.version == version]
    assert isinstance(report, CandidateReport)
    return report


def comparison_of(decision: Decision, version: int) -> Comparison:
    comparison = report_of(decision, version).comparison
    assert comparison is not None
    return comparison
