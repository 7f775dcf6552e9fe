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
from pipeline.promotion.trying import Trouble
from registry_hooks.errors import EvaluationError, UnknownModelError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion

NAME = "model"
NUM_ITEMS = 200


def evaluation(num_right: int, *, fingerprint: str = "f", template: str = "t") -> Evaluation:
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
        test_set="t",
        test_set_digest="d",
        fingerprint=fingerprint,
        items=items,
        seconds=1.0,
        device="cpu",
        dtype="f",
        form={"chat template": template, "dtype": "f"},
    )


class Bench:
    """Versions in a registry, and a judge whose evaluations come from a table; an exception there is raised."""

    def __init__(self) -> None:
        self.registry = MemoryPromotion()
        self.now: dict[int, Any] = {}
        self.on_record: dict[int, Evaluation] = {}
        self.evaluated: list[int] = []

    def publish(
        self, found: Any, *, loss: float | None = 1.0, eval_step: int = 100, is_nan: bool = False
    ) -> ModelVersion:
        tags = {"relay.step": "100", "relay.manifest_sha256": "0" * 64}
        tags |= {"relay.nonfinite_metrics": "eval_loss=nan, eval_rouge=nan"} if is_nan else {}
        version = self.registry.add_version(
            NAME,
            artifact_uri="s3://b/x",
            tags=tags,
            metrics={} if loss is None else {"eval_loss": loss},
            params={"eval_step": str(eval_step)},
        )
        self.now[version.version] = found
        return version

    def judge(self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion]) -> Judgement:
        return self.of_items().judge(incumbent, candidates)

    def of_items(self, **policy: Any) -> ItemJudge:
        return ItemJudge(
            source=self.registry,
            policy=Policy.model_validate(policy),
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


def test_a_moment_without_room_ends_the_decision_and_is_held_against_nobody(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    full = bench.publish(EvaluationError("the GPU has no room", stage="room", transient=True))
    other = bench.publish(evaluation(150))

    found = bench.judge(old, [full, other])

    assert (found.kind, found.stories, found.rejected, found.unscored) == ("error", {}, {}, {})
    assert "the GPU has no room" in found.because
    assert not found.is_counted
    assert bench.evaluated == [1, 2]


def test_a_candidate_whose_engine_dies_waits_and_the_others_are_compared(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    deadly = bench.publish(EvaluationError("the engine ended", stage="asking", transient=True))
    good = bench.publish(evaluation(150))

    found = bench.judge(old, [deadly, good])

    assert (found.kind, found.winner, found.rejected) == ("promote", 3, {})
    assert found.unscored == {2: Trouble(because="the engine ended", is_counted=True)}


def test_an_incumbent_that_cannot_be_scored_now_is_an_error_and_nobody_else_is_scored(bench: Bench) -> None:
    old = bench.publish(EvaluationError("it took too long", stage="deadline", transient=True))
    new = bench.publish(evaluation(150))

    found = bench.judge(old, [new])

    assert (found.kind, found.winner, found.is_counted) == ("error", None, True)
    assert "version 1, which is in production, could not be scored" in found.because
    assert bench.evaluated == [1]


def test_an_incumbent_that_can_never_be_scored_is_no_bar(bench: Bench) -> None:
    old = bench.publish(EvaluationError("item 7: no chat template", stage="asking"))
    good, better = bench.publish(evaluation(120)), bench.publish(evaluation(150))

    found = bench.judge(old, [good, better])

    assert (found.kind, found.winner, list(found.stories)) == ("promote", 3, [3])
    assert "version 1 is no bar, since it could not be scored: item 7: no chat template" in found.because


def test_what_the_incumbent_fails_as_well_rejects_nobody(bench: Bench) -> None:
    """A test set with an item that is too long for all of them."""
    broken = [bench.publish(EvaluationError("item 7: 400", stage="asking")) for _ in range(4)]

    found = bench.judge(broken[0], broken[1:])

    assert (found.kind, found.rejected, found.unscored) == ("error", {}, {})
    assert "so the test set may be at fault: item 7: 400" in found.because


def test_an_incumbent_that_is_given_up_is_no_bar_for_those_that_can_be_scored(bench: Bench) -> None:
    dies = EvaluationError("the engine ended", stage="asking", transient=True)
    old, new, good = bench.publish(dies), bench.publish(dies, loss=1.0), bench.publish(evaluation(60), loss=5.0)
    items = bench.of_items()

    some, nobody = items.judge(old, [new, good], gives_up=True), items.judge(old, [new], gives_up=True)
    bench.now[old.version] = evaluation(100)
    after_all = items.judge(old, [good], gives_up=True)

    assert (some.kind, some.winner) == ("promote", 3)
    assert "version 1 is no bar, since it could not be scored: the engine ended" in some.because
    assert (nobody.kind, nobody.unscored, nobody.rejected, nobody.is_counted) == ("error", {}, {}, True)
    assert after_all.kind == "keep"


def test_a_version_that_was_deleted_is_rejected_whatever_the_incumbent_fails_on(bench: Bench) -> None:
    old, gone = (
        bench.publish(UnknownModelError("no run", what="run")),
        bench.publish(UnknownModelError("?", what="run")),
    )

    assert list(bench.judge(old, [gone]).rejected) == [2]
    bench.now[old.version] = EvaluationError("the engine ended", stage="asking", transient=True)
    assert list(bench.of_items().judge(old, [gone], gives_up=True).rejected) == [2]


def test_a_version_whose_run_is_gone_is_one_verdict_and_as_an_incumbent_no_bar(bench: Bench) -> None:
    old, gone, good = (bench.publish(evaluation(right)) for right in (100, 110, 150))
    bench.registry.delete_run(gone.run_id or "")
    bench.now[gone.version] = UnknownModelError("there is no such run", what="run")

    of_candidates, of_incumbent = bench.judge(old, [gone, good]), bench.judge(gone, [old, good])

    assert (of_candidates.winner, list(of_candidates.rejected)) == (3, [2])
    assert of_incumbent.winner == 3
    assert "version 2 is no bar" in of_incumbent.because


def test_one_candidate_in_another_form_is_compared_and_people_are_told(bench: Bench) -> None:
    old, odd, good = (
        bench.publish(evaluation(right, template=template)) for right, template in ((100, "t"), (50, "odd"), (150, "t"))
    )

    found = bench.judge(old, [odd, good])

    assert found.winner == 3
    assert "beside its weights it differs from version 1 in: chat template" in found.stories[2][0]
    assert "**Note**" not in found.stories[3][0]


def test_one_candidate_that_is_scored_in_another_way_waits_and_the_others_are_compared(bench: Bench) -> None:
    old, other, good = (
        bench.publish(evaluation(right, fingerprint=way)) for right, way in ((100, "a"), (90, "b"), (150, "a"))
    )

    found = bench.judge(old, [other, good])

    assert (found.winner, list(found.unscored)) == (3, [2])
    assert not found.unscored[2].is_counted
    assert 2 not in found.stories


def test_an_incumbent_that_fails_when_it_is_scored_anew_is_counted(bench: Bench) -> None:
    old, new = bench.publish(EvaluationError("the engine ended", stage="asking", transient=True)), bench.publish(None)
    bench.on_record = {1: evaluation(100, fingerprint="then"), 2: evaluation(150, fingerprint="now")}

    found = bench.judge(old, [new])

    assert (found.kind, found.is_counted) == ("error", True)


def test_a_card_that_fills_while_scores_are_made_anew_ends_the_decision(bench: Bench) -> None:
    old, full, last = bench.publish(evaluation(100, fingerprint="now")), bench.publish(None), bench.publish(None)
    bench.now[full.version] = EvaluationError("the GPU has no room", stage="room", transient=True)
    bench.on_record = {number: evaluation(90, fingerprint="then") for number in (2, 3)}

    found = bench.judge(old, [full, last])

    assert (found.kind, found.is_counted, bench.evaluated) == ("error", False, [1, 2])


def test_where_the_only_candidates_engine_dies_nobody_is_rejected(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    deadly = bench.publish(EvaluationError("the engine ended", stage="asking", transient=True))

    found = bench.judge(old, [deadly])

    assert (found.kind, found.rejected, list(found.unscored)) == ("error", {}, [2])
    assert found.because == "none of 1 candidates could be scored: the engine ended"


@pytest.mark.parametrize("judge", ["items", "metrics"])
def test_without_an_incumbent_the_best_by_the_metric_is_promoted_unscored(bench: Bench, judge: str) -> None:
    versions = [bench.publish(None, loss=loss) for loss in (2.0, None, 1.5, 1.7)]
    versions.append(bench.publish(None, loss=None, is_nan=True))
    one = bench.of_items() if judge == "items" else bench.of_metrics()

    found = one.judge(None, versions)

    assert (found.kind, found.winner, list(found.stories), bench.evaluated) == ("promote", 3, [3], [])
    assert found.because == "of 5 that wait, it has the best eval_loss, 1.5"
    assert one.judge(None, versions[1:2]).because == "it has no eval_loss of its own"
    assert one.judge(None, versions[4:]).rejected[5] == "its eval_loss is not a finite number"


def test_where_higher_is_better_the_highest_are_scored(bench: Bench) -> None:
    old = bench.publish(evaluation(100))
    many = [bench.publish(evaluation(90), loss=place / 10) for place in range(8)]

    bench.of_items(lower_is_better=False, max_candidates=2).judge(old, many)

    assert sorted(bench.evaluated) == [1, 8, 9]


def test_a_metric_that_is_not_the_versions_own_decides_nothing(bench: Bench) -> None:
    old, stale, gone = (bench.publish(None, loss=loss) for loss in (2.0, 1.0, 1.0))
    stale = bench.publish(None, loss=0.5, eval_step=50)
    bench.registry.delete_run(gone.run_id or "")

    found = bench.of_metrics().judge(old, [gone, stale])

    assert found.kind == "keep"
    assert "its run is gone, and with it its eval_loss" in found.stories[3][1]
    assert "that of step 50, the last evaluation before it was saved, and not its own" in found.stories[4][1]


def test_without_its_own_metric_an_incumbent_is_no_bar(bench: Bench) -> None:
    old, new = bench.publish(None, loss=None), bench.publish(None, loss=3.0)

    found = bench.of_metrics().judge(old, [new])

    assert (found.kind, found.winner) == ("promote", 2)
    assert "Version 1 is no bar, since its eval_loss is missing" in found.because


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
