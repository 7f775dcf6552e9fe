"""Compares versions: by scores per item on the test set, or, where there is none, by one metric of their training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.evaluation.results import Evaluation
from pipeline.promotion import ledger, report
from pipeline.promotion.acting import Judgement
from pipeline.promotion.deciding import decide
from pipeline.promotion.evaluations import Evaluations
from pipeline.promotion.policy import Policy
from pipeline.promotion.preselection import Entrant, Preselection, preselect
from pipeline.promotion.scalar import ScalarScore, decide_scalar
from pipeline.promotion.scores import Scores
from pipeline.promotion.trained import Trained, trained
from pipeline.promotion.trying import Trouble
from pipeline.promotion.verdicts import CandidateReport, Decision, ScalarReport
from registry_hooks.errors import UnknownModelError
from registry_hooks.ports import RunSource
from registry_hooks.records import ModelVersion

CompareUrl = Callable[[Sequence[ModelVersion]], str | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricJudge:
    """Decides by `policy.score_metric`, a point estimate."""

    source: RunSource
    policy: Policy
    compare_url: CompareUrl

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        """Compare the metric of each candidate with the incumbent's; without one the best is promoted."""
        if incumbent is None:
            return choose(self.source, candidates, self.policy)
        decision = decide_scalar(self._score(incumbent), [self._score(one) for one in candidates], policy=self.policy)
        return _judgement(decision, [incumbent, *candidates], self.compare_url)

    def _score(self, version: ModelVersion) -> ScalarScore:
        found = training_of(self.source, version, self.policy)
        return ScalarScore(
            version=version.version,
            step=version.step,
            value=found.value,
            training=found.training,
            fault=found.fault,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ItemJudge:
    """Decides by the scores per item on the test set.

    Attributes:
        known: What was written down of a version on this test set; None when there is nothing.
        evaluate: Scores a version now, and writes that down.
    """

    source: RunSource
    policy: Policy
    compare_url: CompareUrl
    known: Callable[[ModelVersion], Evaluation | None]
    evaluate: Callable[[ModelVersion], Evaluation]

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        """Score the incumbent, then the best few by the metric, and compare them on the same items.

        Without an incumbent the best by the metric is promoted, unscored: whoever waits is compared with it next. One
        that is given up is no bar for those that can be scored; where nobody can, it stays.
        """
        if incumbent is None:
            return choose(self.source, candidates, self.policy)
        found = Evaluations(known=self.known, evaluate=self.evaluate)
        found.add(incumbent)
        given_up = found.give_up(incumbent) if gives_up else None
        if (trouble := found.in_the_way(incumbent)) is not None:
            return _later(trouble)
        facts = {one.version: training_of(self.source, one, self.policy) for one in candidates}
        selection = self._preselect(facts)
        chosen = [one for one in candidates if one.version in selection.chosen]
        for one in chosen:
            found.add(one)
            if found.halted:
                break
        found.make_alike(incumbent, chosen)
        if (trouble := found.in_the_way(incumbent)) is not None:
            return _later(trouble)
        scored = [one for one in chosen if one.version in found.scored]
        rejected = _rejected(found, incumbent, chosen)
        unscored = {version: one for version, one in found.troubles.items() if version != incumbent.version}
        if not scored:
            because = _nobody(found, incumbent, chosen)
            if given_up is None:
                return Judgement(kind=ledger.ERROR, because=because, rejected=rejected, unscored=unscored)
            # This machine may be at fault: nobody is nearer to being rejected, but for those that are gone.
            return Judgement(kind=ledger.ERROR, because=because, rejected=rejected, is_counted=True)
        if incumbent.version not in found.scored:
            judgement = self._without_a_bar(found, incumbent, scored)
        else:
            sides = {one.version: _scores(one, found, facts, self.policy) for one in scored}
            base = _scores(incumbent, found, facts, self.policy)
            decision = decide(base, [sides[one.version] for one in scored], policy=self.policy)
            judgement = _judgement(decision, [incumbent, *chosen], self.compare_url)
            judgement = dataclasses.replace(judgement, stories=_stories(judgement, found, incumbent, selection))
        return dataclasses.replace(judgement, rejected=rejected, unscored=unscored)

    def _preselect(self, facts: dict[int, Trained]) -> Preselection:
        policy, entrants = self.policy, [Entrant(version=number, value=one.value) for number, one in facts.items()]
        return preselect(
            entrants, policy.max_candidates, metric=policy.score_metric, lower_is_better=policy.lower_is_better
        )

    def _without_a_bar(self, found: Evaluations, incumbent: ModelVersion, scored: Sequence[ModelVersion]) -> Judgement:
        """The best on the test set, where the incumbent itself cannot be scored on it; the others wait on."""

        def cost(one: ModelVersion) -> tuple[float, int]:
            overall = found.scored[one.version].overall
            return (overall.loss if self.policy.primary == "loss" else -overall.score, one.version)

        best = min(scored, key=cost)
        because = (
            f"version {incumbent.version} is no bar, since it could not be scored: {found.broken[incumbent.version]}; "
            f"version {best.version} is the best of {len(scored)} that could"
        )
        return promoted(best.version, because)


def training_of(source: RunSource, version: ModelVersion, policy: Policy) -> Trained:
    """What training measured of a version; a run that is gone is one of the things that can be found."""
    try:
        run = source.get_run(version.run_id) if version.run_id else None
    except UnknownModelError:
        run = None
    return trained(version, run, policy.score_metric)


def choose(source: RunSource, candidates: Sequence[ModelVersion], policy: Policy) -> Judgement:
    """The best by the metric, where there is nothing to compare with. What is not finite never is."""
    facts = {one.version: training_of(source, one, policy) for one in candidates}
    sound = {number: one for number, one in facts.items() if not one.fault.endswith("not a finite number")}
    if not sound:
        because = "none of those that wait can be the first: what training measured of them is not finite"
        rejected = {number: f"its {one.fault}" for number, one in facts.items()}
        return Judgement(kind=ledger.KEEP, because=because, rejected=rejected)
    entrants = [Entrant(version=number, value=one.value) for number, one in sound.items()]
    metric = policy.score_metric
    best = preselect(entrants, 1, metric=metric, lower_is_better=policy.lower_is_better).chosen[0]
    value, of = sound[best].value, f"of {len(candidates)} that wait, " if len(candidates) > 1 else ""
    has = f"it has no {metric} of its own" if value is None else f"it has the best {metric}, {value:.6g}"
    return promoted(best, f"{of}{has}")


def promoted(number: int, because: str) -> Judgement:
    """A promotion without a comparison."""
    stories = {number: (f"**Promoted**: {because}.", because)}
    return Judgement(kind=ledger.PROMOTE, because=because, winner=number, stories=stories)


def _later(trouble: Trouble) -> Judgement:
    """Nothing can be compared now, whoever the candidates are."""
    return Judgement(kind=ledger.ERROR, because=trouble.because, is_counted=trouble.is_counted)


def _rejected(found: Evaluations, incumbent: ModelVersion, chosen: Sequence[ModelVersion]) -> dict[int, str]:
    """Those that can never be scored; where the incumbent cannot either, the test set may be at fault for most."""
    sure = found.gone if incumbent.version in found.broken else found.broken.keys()
    broken = {one.version: found.broken[one.version] for one in chosen if one.version in sure}
    return {number: f"it could not be scored: {why}" for number, why in broken.items()}


def _nobody(found: Evaluations, incumbent: ModelVersion, chosen: Sequence[ModelVersion]) -> str:
    if incumbent.version in found.broken:
        return (
            f"neither version {incumbent.version}, which is in production, nor any of {len(chosen)} candidates could "
            f"be scored, so the test set may be at fault: {found.broken[incumbent.version]}"
        )
    whys = [*(one.because for one in found.troubles.values()), *found.broken.values()]
    return f"none of {len(chosen)} candidates could be scored: {whys[0]}"


def _stories(
    judgement: Judgement, found: Evaluations, incumbent: ModelVersion, selection: Preselection
) -> dict[int, tuple[str, str]]:
    stories = {
        number: (story + found.about_form(incumbent.version, number), reason)
        for number, (story, reason) in judgement.stories.items()
    }
    return stories | {one.version: (f"**Not promoted**: {one.why}", one.why) for one in selection.passed_over}


def _scores(version: ModelVersion, found: Evaluations, facts: dict[int, Trained], policy: Policy) -> Scores:
    evaluation = found.scored[version.version]
    losses = np.array([item.loss for item in evaluation.items])
    rights = np.array([item.score for item in evaluation.items])
    return Scores(
        version=version.version,
        digest=version.digest or "",
        step=version.step,
        item_ids=tuple(item.item_id for item in evaluation.items),
        slices=tuple(item.slice for item in evaluation.items),
        groups=tuple(item.group for item in evaluation.items),
        values=losses if policy.primary == "loss" else rights,
        losses=losses,
        fingerprint=evaluation.fingerprint,
        training=facts[version.version].training if version.version in facts else "",
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
