"""What becomes of a test set that decides again and again: fresh samples of a pool, or a count that people can see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.evaluation.sampling import draw
from pipeline.evaluation.test_set import TestSet
from pipeline.promotion import ledger
from pipeline.promotion.acting import Judgement
from pipeline.promotion.reconciling import JudgeOfVersions
from registry_hooks import contract
from registry_hooks.ports import ModelOverview
from registry_hooks.records import ModelVersion

# In the metrics of a decision's run.
USES = "test_set_decisions"
# From here on people are told what to do about it: after 60 rounds a gain of 3 points is shown half as often.
MANY = 20
_NUM_ENTRIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingJudge:
    """Compares on items that are drawn anew for each decision; who is in production is scored on them too.

    So neither its luck on the items by which it was chosen, nor its luck on those that it has survived, is a bar for
    the next ones. The seed is the newest candidate's number: a decision that is made again has the same items.

    Attributes:
        judge_on: What compares on a test set.
        num_items: Of each sample.
    """

    judge_on: Callable[[TestSet], JudgeOfVersions]
    pool: TestSet
    num_items: int

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        """What came of it; each story says what was drawn."""
        seed = max(one.version for one in candidates)
        sample = draw(self.pool, self.num_items, seed=seed)
        found = self.judge_on(sample).judge(incumbent, candidates, gives_up=gives_up)
        if incumbent is None:  # then nothing is scored
            return found
        note = (
            f"Scored on {len(sample.items):,} of the {len(self.pool.items):,} items of {self.pool.name}, drawn for "
            f"this decision with seed {seed} ({sample.digest[:12]})."
        )
        return _noted(found, note, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingJudge:
    """Says with each decision in how many the test set was used.

    Attributes:
        num_before: In how many it was before.
    """

    inner: JudgeOfVersions
    test_set: TestSet
    num_before: Callable[[], int]

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        """What came of it; where nothing was decided by the test set, nothing is counted."""
        found = self.inner.judge(incumbent, candidates, gives_up=gives_up)
        if incumbent is None or found.kind == ledger.ERROR:
            return found
        uses = self.num_before() + 1
        return _noted(found, uses_in_words(self.test_set.name, uses), {USES: float(uses)})


def uses_in_words(name: str, uses: int) -> str:
    """The count for people, and from `MANY` on what to do about it."""
    if uses == 1:
        return f"This is the first decision by test set {name}."
    said = f"The test set {name} was used in {uses:,} decisions."
    if uses < MANY:
        return said
    return (
        f"{said} A score that was lucky on these items stays lucky, so what is in production is ever harder to beat. "
        "Set evaluate.sample to draw fresh items from a larger file, or take new ones."
    )


def num_decisions(registry: ModelOverview, name: str, digest: str) -> int:
    """In how many decisions a test set was used, as the newest of them says."""
    runs = registry.latest_runs(contract.decisions_experiment(name), _NUM_ENTRIES)
    entries = [ledger.from_run(run) for run in runs]
    own = [one for one in entries if one.rule.test_set_digest == digest and one.kind != ledger.ERROR]
    return next((int(one.numbers[USES]) for one in own if USES in one.numbers), len(own))


def _noted(found: Judgement, note: str, numbers: dict[str, float]) -> Judgement:
    stories = {number: (f"{story}\n\n{note}", reason) for number, (story, reason) in found.stories.items()}
    return replace(found, stories=stories, numbers={**found.numbers, **numbers})
