"""Compares versions: by scores per item on the test set, or, where there is none, by one metric of their training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.evaluation.results import Evaluation
from pipeline.promotion import ledger, report
from pipeline.promotion.acting import Judgement
from pipeline.promotion.deciding import decide
from pipeline.promotion.policy import Policy
from pipeline.promotion.preselection import Entrant, Preselection, preselect
from pipeline.promotion.scalar import ScalarScore, decide_scalar
from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import CandidateReport, Decision, ScalarReport
from registry_hooks.errors import RelayError
from registry_hooks.ports import VersionSource
from registry_hooks.records import ModelVersion

CompareUrl = Callable[[Sequence[ModelVersion]], str | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricJudge:
    """Decides by `policy.score_metric`, a point estimate."""

    source: VersionSource
    policy: Policy
    compare_url: CompareUrl

    def judge(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> Judgement:
        """Compare the metric of each candidate with the incumbent's."""
        decision = decide_scalar(self._score(incumbent), [self._score(one) for one in candidates], policy=self.policy)
        return _judgement(decision, [incumbent, *candidates], self.compare_url)

    def _score(self, version: ModelVersion) -> ScalarScore:
        metrics = self.source.run_metrics(version.run_id) if version.run_id else {}
        return ScalarScore(version=version.version, step=version.step, value=metrics.get(self.policy.score_metric))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ItemJudge:
    """Decides by the scores per item on the test set.

    Attributes:
        known: What was written down of a version on this test set; None when there is nothing.
        evaluate: Scores a version now, and writes that down.
    """

    source: VersionSource
    policy: Policy
    compare_url: CompareUrl
    known: Callable[[ModelVersion], Evaluation | None]
    evaluate: Callable[[ModelVersion], Evaluation]

    def judge(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> Judgement:
        """Score the best few by training loss, and compare them with the incumbent on the same items."""
        selection = preselect([self._entrant(one) for one in candidates], self.policy.max_candidates)
        chosen = [one for one in candidates if one.version in selection.chosen]
        fresh: dict[int, Evaluation] = {}
        evaluations, rejected, trouble = self._evaluate_all(chosen, fresh, reuse=True)
        if not evaluations:
            return _nobody(chosen, rejected, trouble)
        try:
            base = self._one(incumbent, fresh, reuse=True)
            if len({one.fingerprint for one in (base, *evaluations.values())}) > 1:
                # Some were scored in another way, before an upgrade say: these are scored anew.
                base = self._one(incumbent, fresh, reuse=False)
                evaluations, rejected, trouble = self._evaluate_all(chosen, fresh, reuse=False)
        except RelayError as error:
            because = f"version {incumbent.version}, which is in production, could not be scored: {error}"
            return Judgement(kind=ledger.ERROR, because=because, rejected=rejected)
        if not evaluations:
            return _nobody(chosen, rejected, trouble)
        scored = [_scores(one, evaluations[one.version], self.policy) for one in chosen if one.version in evaluations]
        decision = decide(_scores(incumbent, base, self.policy), scored, policy=self.policy)
        judgement = _judgement(decision, [incumbent, *chosen], self.compare_url)
        return dataclasses.replace(
            judgement, stories={**judgement.stories, **_passed_over(selection)}, rejected=rejected
        )

    def _entrant(self, version: ModelVersion) -> Entrant:
        metrics: Mapping[str, float] = self.source.run_metrics(version.run_id) if version.run_id else {}
        return Entrant(version=version.version, loss=metrics.get(self.policy.score_metric), step=version.step)

    def _evaluate_all(
        self, chosen: Sequence[ModelVersion], fresh: dict[int, Evaluation], *, reuse: bool
    ) -> tuple[dict[int, Evaluation], dict[int, str], str]:
        """Evaluations by version; what is wrong with the others for good; what is in the way for now."""
        evaluations, rejected, trouble = {}, {}, ""
        for version in chosen:
            try:
                evaluations[version.version] = self._one(version, fresh, reuse=reuse)
            except RelayError as error:
                if error.transient:
                    trouble = f"version {version.version} could not be scored: {error}"
                else:
                    rejected[version.version] = f"it could not be scored: {error}"
        return evaluations, rejected, trouble

    def _one(self, version: ModelVersion, fresh: dict[int, Evaluation], *, reuse: bool) -> Evaluation:
        """What was scored in this very decision, else what is on record, else a new score.

        Args:
            reuse: Whether a record counts that was made in another way than what was scored just now.
        """
        if version.version in fresh:
            return fresh[version.version]
        known, todays = self.known(version), {one.fingerprint for one in fresh.values()}
        if known is not None and (reuse or known.fingerprint in todays):
            return known
        found = fresh[version.version] = self.evaluate(version)
        return found


def _scores(version: ModelVersion, evaluation: Evaluation, policy: Policy) -> Scores:
    losses = np.array([item.loss for item in evaluation.items])
    rights = np.array([item.score for item in evaluation.items])
    return Scores(
        version=version.version,
        digest=version.digest or "",
        step=version.step,
        item_ids=tuple(item.item_id for item in evaluation.items),
        slices=tuple(item.slice for item in evaluation.items),
        values=losses if policy.primary == "loss" else rights,
        losses=losses,
        fingerprint=evaluation.fingerprint,
    )


def _judgement(decision: Decision, versions: Sequence[ModelVersion], compare_url: CompareUrl) -> Judgement:
    url = compare_url(versions)
    reports: Sequence[CandidateReport | ScalarReport] = decision.reports
    stories = {
        one.version: (report.to_markdown(decision, one, compare_url=url), one.why_not or decision.because)
        for one in reports
    }
    return Judgement(
        kind=decision.verdict.value.lower(),
        because=decision.because,
        winner=decision.winner,
        stories=stories if decision.verdict.value.lower() != ledger.ERROR else {},
        numbers=_numbers(reports),
        document=json.dumps(report.to_document(decision), indent=1),
    )


def _numbers(reports: Sequence[CandidateReport | ScalarReport]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in reports:
        if isinstance(one, ScalarReport):
            found |= {} if one.gain is None else {f"gain/{one.version}": one.gain}
        elif one.comparison is not None:
            found[f"difference/{one.version}"] = one.comparison.difference
            found[f"p_adjusted/{one.version}"] = one.comparison.p_adjusted
    return found


def _passed_over(selection: Preselection) -> dict[int, tuple[str, str]]:
    return {one.version: (f"**Not promoted**: {one.why}", one.why) for one in selection.passed_over}


def _nobody(chosen: Sequence[ModelVersion], rejected: Mapping[int, str], trouble: str) -> Judgement:
    because = trouble or f"none of the {len(chosen)} candidates could be scored"
    return Judgement(kind=ledger.ERROR, because=because, rejected=rejected)
