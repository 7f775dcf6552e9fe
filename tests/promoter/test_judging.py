"""How versions come to be compared: whom to score, what to do about those that cannot be, and what is said of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.evaluation.results import Evaluation, ItemScore
from pipeline.promotion.acting import Judgement
from pipeline.promotion.judging import ItemJudge, MetricJudge
from pipeline.promotion.policy import Policy
from registry_hooks.errors import EvaluationError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion

NAME = "model"
NUM_ITEMS = 200


def evaluation(num_right: int, *, fingerprint: str = "f") -> Evaluation:
    items = tuple(
        ItemScore(
            item_id=f"{place:03}",
            slice="even" if place % 2 == 0 else "odd",
            scorer="exact_match",
            score=float(place < num_right),
            loss=1.0 if place >= num_right else 0.5,
            num_tokens=3,
            said="",
        )
        for place in range(NUM_ITEMS)
    )
    return Evaluation(
        test_set="t", test_set_digest="d", fingerprint=fingerprint, items=items, seconds=1.0, device="cpu", dtype="f"
    )


class Bench:
    """Versions in a registry, and a judge whose evaluations come from a table; an exception there is raised."""

    def __init__(self) -> None:
        self.registry = MemoryPromotion()
        self.now: dict[int, Any] = {}
        self.on_record: dict[int, Evaluation] = {}
        self.evaluated: list[int] = []

    def publish(self, found: Any, *, loss: float | None = 1.0) -> ModelVersion:
        tags = {"relay.step": "100", "relay.manifest_sha256": "0" * 64}
        metrics = {} if loss is None else {"eval_loss": loss}
        version = self.registry.add_version(NAME, artifact_uri="s3://b/x", tags=tags, metrics=metrics)
        self.now[version.version] = found
        return version

    def judge(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> Judgement:
        return self.of_items().judge(incumbent, candidates)

    def of_items(self) -> ItemJudge:
        return ItemJudge(
            source=self.registry,
            policy=Policy.model_validate({}),
            compare_url=lambda versions: f"http://mlflow/{len(versions)}",
            known=lambda version: self.on_record.get(version.version),
            evaluate=self._evaluate,
        )

    def of_metrics(self) -> MetricJudge:
        url: Callable[[Sequence[ModelVersion]], str] = lambda versions: "http://mlflow"  # noqa: E731
        return MetricJudge(source=self.registry, policy=Policy.model_validate({}), compare_url=url)

    def _evaluate(self, version: ModelVersion) -> Evaluation:
        self.evaluated.append(version.version)
        found = self.now[version.version]
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Evaluation)
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_better_one_wins_and_each_has_its_story(bench: Bench) -> None:
    old, better, worse = bench.publish(evaluation(100)), bench.publish(evaluation(150)), bench.publish(evaluation(60))

    found = bench.judge(old, [better, worse])

    assert (found.kind, found.winner) == ("promote", 2)
    assert found.stories[2][0].startswith("**Promoted**")
    assert "http://mlflow/3" in found.stories[2][0]
    assert "worse" in found.stories[3][1]
    assert found.numbers["difference/2"] == pytest.approx(0.25)
    assert json.loads(found.document)["verdict"] == "PROMOTE"


def test_what_is_on_record_is_not_scored_again_unless_it_was_scored_otherwise(bench: Bench) -> None:
    old, new = bench.publish(evaluation(100, fingerprint="now")), bench.publish(evaluation(150, fingerprint="now"))
    bench.on_record = {1: evaluation(100, fingerprint="then"), 2: evaluation(150, fingerprint="now")}

    found = bench.judge(old, [new])

    assert found.kind == "promote"
    assert bench.evaluated == [1]


def test_a_candidate_that_can_never_be_scored_is_rejected_and_the_others_go_on(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    broken = bench.publish(EvaluationError("item 7: nan", stage="answers"))
    good = bench.publish(evaluation(150))

    found = bench.judge(old, [broken, good])

    assert found.winner == 3
    assert "item 7: nan" in found.rejected[2]
    assert 2 not in found.stories


def test_trouble_that_may_pass_leaves_all_waiting(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    new = bench.publish(EvaluationError("the GPU has no room", stage="room", transient=True))

    found = bench.judge(old, [new])

    assert (found.kind, found.stories, found.rejected) == ("error", {}, {})
    assert "the GPU has no room" in found.because


def test_an_incumbent_that_cannot_be_scored_is_an_error_and_no_promotion(bench: Bench) -> None:
    old = bench.publish(EvaluationError("gone", stage="fetch", transient=True))
    new = bench.publish(evaluation(150))

    found = bench.judge(old, [new])

    assert (found.kind, found.winner) == ("error", None)
    assert "version 1, which is in production, could not be scored" in found.because


def test_only_the_best_few_by_training_loss_are_scored_and_the_rest_is_told_why(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    many = [bench.publish(evaluation(90), loss=float(place)) for place in range(8)]

    found = bench.judge(old, many)

    assert sorted(bench.evaluated) == [1, 2, 3, 4, 5, 6, 7]
    assert found.kind == "keep"
    assert "at most 6 compete" in found.stories[9][1]
    assert sorted(found.stories) == [2, 3, 4, 5, 6, 7, 8, 9]


def test_a_metric_decides_where_there_is_no_test_set(bench: Bench) -> None:
    old, new, dumb = (bench.publish(None, loss=loss) for loss in (2.0, 1.5, None))

    found = bench.of_metrics().judge(old, [new, dumb])

    assert (found.kind, found.winner) == ("promote", 2)
    assert "point estimate" in found.because
    assert "eval_loss is missing" in found.stories[3][1]
    assert found.numbers == {"gain/2": 0.5}


def test_scores_from_before_an_upgrade_are_all_made_anew(bench: Bench) -> None:
    old, first, second = (bench.publish(evaluation(right, fingerprint="now")) for right in (100, 150, 90))
    bench.on_record = {2: evaluation(150, fingerprint="then"), 3: evaluation(90, fingerprint="long ago")}

    found = bench.judge(old, [first, second])

    assert (found.kind, found.winner) == ("promote", 2)
    assert sorted(bench.evaluated) == [1, 2, 3]
