"""How versions come to be compared: whom to score, what to do about those that cannot be, and what is said of each."""

from __future__ import annotations

import json

import pytest

from tests.promoter.scored_bench import Bench, evaluation


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
