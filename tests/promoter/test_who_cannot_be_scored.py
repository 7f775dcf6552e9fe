"""Versions that cannot be scored: whose fault it is, who waits, who is rejected, and when the incumbent is no bar."""

from __future__ import annotations

from pipeline.promotion.trying import Trouble
from registry_hooks.errors import EvaluationError, UnknownModelError
from tests.promoter.scored_bench import Bench, evaluation


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
