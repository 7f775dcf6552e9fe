"""What a decision says: the verdict, the winner, and every number behind both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipeline.promotion.policy import Policy


class Verdict(StrEnum):
    """What to do about the alias."""

    PROMOTE = "PROMOTE"
    KEEP = "KEEP"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceReport:
    """One slice of the test set.

    Attributes:
        difference: Mean over the slice, higher is better; share of items or nats.
        p_harm: That a mean so much worse is luck: sign flips, for right-or-wrong scores the exact sign test.
        p_harm_holm: The same, corrected for the number of slices.
        is_harmed: The corrected one is at most `slice_alpha`, and the harm at least `slice_min_harm`.
    """

    name: str
    num_items: int
    num_better: int
    num_worse: int
    difference: float
    p_harm: float
    p_harm_holm: float
    is_harmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailReport:
    """The mean loss per item, candidate minus incumbent, in nats; lower is better.

    Attributes:
        lower_bound_nats: One-sided, at `guardrail_alpha`.
        upper_bound_nats: One-sided, at `guardrail_alpha`.
        is_noninferior: A rise of the margin is ruled out.
        is_worse: A rise of more than the margin is shown.
        forbids: Whether the policy forbids a promotion for it.
    """

    difference_nats: float
    lower_bound_nats: float
    upper_bound_nats: float
    margin_nats: float
    is_noninferior: bool
    is_worse: bool
    forbids: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One candidate against the incumbent on the same items.

    Attributes:
        incumbent_mean: Of the primary score as measured: share of exact answers, or nats.
        candidate_mean: Of the primary score as measured.
        difference: Mean, higher is better also for loss; share of items or nats.
        standard_error: Of the difference, paired; infinite for one item.
        p_adjusted: One-sided, for all candidates of the decision together.
        lower_bound: One-sided, at `alpha`, of the difference of this candidate alone.
        guardrail: None where losses per item were not measured.
    """

    num_items: int
    num_better: int
    num_worse: int
    incumbent_mean: float
    candidate_mean: float
    difference: float
    standard_error: float
    p_adjusted: float
    lower_bound: float
    slices: tuple[SliceReport, ...]
    guardrail: GuardrailReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateReport:
    """One candidate in a decision on scores per item.

    Attributes:
        comparison: None when there is nothing to compare.
        why_not: One sentence; empty for the winner.
    """

    version: int
    digest: str
    step: int | None
    comparison: Comparison | None
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarReport:
    """One candidate in a decision on a single number, a point estimate.

    Attributes:
        value: The metric; None when it is missing or not finite.
        gain: Over the incumbent, higher is better whatever the metric; None when it cannot be told.
        why_not: One sentence; empty for the winner.
    """

    version: int
    step: int | None
    value: float | None
    gain: float | None
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about the alias, and why.

    Attributes:
        because: One sentence.
        reports: One for each candidate, in the order given.
        incumbent_value: Mean of the primary score, or the metric; None when it cannot be told.
        num_items: On which the versions were compared; 0 for a point estimate.
        fingerprint: How the scores were made; empty for a point estimate.
    """

    verdict: Verdict
    winner: int | None
    because: str
    reports: tuple[CandidateReport, ...] | tuple[ScalarReport, ...]
    method: Literal["paired sign-flip max-T", "point estimate"]
    incumbent: int
    incumbent_value: float | None
    num_items: int
    fingerprint: str
    policy: Policy
