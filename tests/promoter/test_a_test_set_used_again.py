"""A test set that decides again and again says so; with a sample, each decision has fresh items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.evaluation.items import Item
from pipeline.evaluation.test_set import TestSet, build
from pipeline.promotion import ledger
from pipeline.promotion.acting import Judgement
from pipeline.promotion.ledger import Entry
from pipeline.promotion.reusing import MANY, USES, CountingJudge, SamplingJudge, num_decisions, uses_in_words
from pipeline.promotion.rule import Rule, difference
from registry_hooks.memory import MemoryRegistry
from registry_hooks.records import ModelVersion

NAME = "model"


def version_of(number: int) -> ModelVersion:
    return ModelVersion(name=NAME, version=number, run_id=f"r{number}", model_id=None, artifact_uri="s3://b/x")


class Judged:
    """Decides as it was told, and remembers who was compared."""

    def __init__(self, kind: str = ledger.KEEP) -> None:
        self.kind = kind
        self.incumbents: list[int] = []

    def judge(self, incumbent: Any, candidates: Sequence[ModelVersion], *, gives_up: bool = False) -> Judgement:
        self.incumbents.append(incumbent.version if incumbent else 0)
        stories = {one.version: ("**Not promoted**: worse.", "worse") for one in candidates}
        return Judgement(kind=self.kind, because="worse", stories=stories, numbers={"difference": -0.1})


def pool_of(num_items: int) -> TestSet:
    items = [Item(item_id=f"{n}", slice="all", prompt=f"{n}", messages=(), answer="x") for n in range(num_items)]
    return build(items, name="held-out")


def test_each_story_and_the_record_say_in_how_many_decisions_the_set_was_used() -> None:
    judge = CountingJudge(inner=Judged(), test_set=pool_of(3), num_before=lambda: 4)

    found = judge.judge(version_of(1), [version_of(2)])

    assert found.numbers == {"difference": -0.1, USES: 5.0}
    assert found.stories[2] == (
        "**Not promoted**: worse.\n\nThe test set held-out was used in 5 decisions.",
        "worse",
    )


def test_what_decided_nothing_is_not_counted() -> None:
    judge = CountingJudge(inner=Judged(ledger.ERROR), test_set=pool_of(3), num_before=lambda: 4)

    assert USES not in judge.judge(version_of(1), [version_of(2)]).numbers
    first = CountingJudge(inner=Judged(), test_set=pool_of(3), num_before=lambda: 4).judge(None, [version_of(2)])
    assert USES not in first.numbers


def test_after_many_decisions_people_are_told_what_to_do() -> None:
    assert uses_in_words("t", 1) == "This is the first decision by test set t."
    assert "evaluate.sample" not in uses_in_words("t", MANY - 1)
    assert "evaluate.sample" in uses_in_words("t", MANY)


def test_the_count_is_that_of_the_newest_decision_by_the_same_set() -> None:
    registry = MemoryRegistry()
    for digest, kind, numbers in (
        ("d", ledger.KEEP, {}),
        ("d", ledger.KEEP, {USES: 7.0}),
        ("e", ledger.KEEP, {USES: 90.0}),
        ("d", ledger.ERROR, {}),
    ):
        entry = Entry(kind=kind, because="", rule=Rule(test_set_digest=digest), numbers=numbers)
        registry.record_run(ledger.to_run(NAME, entry))

    assert num_decisions(registry, NAME, "d") == 7
    assert num_decisions(registry, NAME, "another") == 0


def test_incumbent_and_rivals_are_compared_on_items_drawn_for_the_decision() -> None:
    seen: list[TestSet] = []
    inner = Judged()

    def judge_on(items: TestSet) -> Judged:
        seen.append(items)
        return inner

    judge = SamplingJudge(judge_on=judge_on, pool=pool_of(200), num_items=20)
    stories = [judge.judge(version_of(1), [version_of(number)]).stories[number][0] for number in (8, 8, 9)]

    assert [len(items.items) for items in seen] == [20, 20, 20]
    assert seen[0].digest == seen[1].digest != seen[2].digest
    assert inner.incumbents == [1, 1, 1]
    assert "Scored on 20 of the 200 items of held-out, drawn for this decision with seed 9 (" in stories[2]


def test_a_rule_that_draws_another_number_of_items_is_another_rule() -> None:
    last = Rule(policy="p", test_set="t", test_set_digest="d", test_set_source="f")
    now = Rule(policy="p", test_set="t", test_set_digest="d", test_set_source="f", test_set_sample="500")

    found = difference(last, now)

    assert found is not None
    assert not found.is_weaker
    assert "here it would be by 500 items of test set t (d)" in found.sentence
