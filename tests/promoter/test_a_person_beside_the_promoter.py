"""A person beside the promoter: moves by hand and by command, holds, freezes; all of it stands."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promotion import ledger, moves
from pipeline.promotion.ledger import Entry
from registry_hooks import contract
from registry_hooks.errors import UserError

NAME = "model"


def test_a_persons_move_is_noted_held_and_never_undone(settled: Any) -> None:
    settled.person_moves(1)
    settled.publish(score=100)

    first = settled.promoter.reconcile()
    settled.promoter.reconcile()

    assert settled.production == 1
    assert "moved outside of Relay, from version 2 to version 1" in first.resting
    assert settled.kinds()[2:] == ["manual 1"]
    assert contract.TAG_HOLD in settled.registry.model_tags(NAME)
    assert settled.tags(3)[contract.TAG_STATE] == "admitted"


def test_deleting_the_hold_tag_releases_it_and_those_who_waited_are_judged(settled: Any) -> None:
    settled.person_moves(1)
    settled.publish(score=100)
    settled.promoter.reconcile()

    settled.registry.set_model_tag(NAME, contract.TAG_HOLD, None)
    settled.promoter.reconcile()

    assert settled.production == 3
    assert settled.kinds()[2:] == ["manual 1", "promote 3"]


def test_moving_back_to_the_promoters_own_choice_ends_the_hold(settled: Any) -> None:
    settled.person_moves(1)
    settled.promoter.reconcile()
    settled.person_moves(2)
    settled.promoter.reconcile()

    assert contract.TAG_HOLD not in settled.registry.model_tags(NAME)
    assert settled.kinds()[2:] == ["manual 1", "manual 2"]


def test_a_removed_alias_stays_removed(settled: Any) -> None:
    settled.person_moves(None)
    settled.publish(score=100)

    settled.promoter.reconcile()

    assert settled.production is None
    assert settled.kinds()[2:] == ["manual none"]


def test_a_hold_in_a_persons_own_words_holds(settled: Any) -> None:
    settled.registry.set_model_tag(NAME, contract.TAG_HOLD, "wait for Ada")
    settled.publish(score=100)

    outcome = settled.promoter.reconcile()

    assert settled.production == 2
    assert outcome.resting == "held: wait for Ada"


def test_a_freeze_stops_promotions_and_not_the_way_back(settled: Any) -> None:
    moves.freeze(settled.hands, why="release week", now=settled.now())
    settled.publish(score=100)
    settled.promoter.reconcile()
    at_first = settled.production
    settled.registry.set_version_tag(NAME, 2, contract.refused_tag("box"), "its answers differ")
    settled.promoter.reconcile()

    assert (at_first, settled.production) == (2, 1)
    assert settled.kinds()[-1] == "rollback 1"


def test_a_persons_choice_that_a_server_refuses_is_an_alert_and_stays(settled: Any) -> None:
    settled.person_moves(1)
    settled.registry.set_version_tag(NAME, 1, contract.refused_tag("box"), "no room")

    outcome = settled.promoter.reconcile()

    assert settled.production == 1
    assert outcome.alerts == ["server box refuses version 1: no room"]


def test_a_move_while_the_judge_thinks_is_not_overwritten(settled: Any) -> None:
    settled.publish(score=100)
    think = settled.table.judge

    def judge(*arguments: Any, **given: Any) -> Any:
        settled.person_moves(1)
        return think(*arguments)

    settled.table.judge = judge
    settled.promoter.reconcile()

    assert settled.production == 1
    assert settled.kinds()[2:] == ["manual 1"]


def test_a_command_moves_holds_and_goes_back(settled: Any) -> None:
    said = moves.promote(settled.hands, 1, why="looks nicer", now=settled.now())
    settled.promoter.reconcile()
    back = moves.roll_back(settled.hands, why="it does not", now=settled.now())

    assert "names version 1 now, and the promoter leaves it there" in said
    assert settled.production == 2
    assert "names version 2 now, and the promoter leaves it there" in back
    assert settled.kinds()[2:] == ["manual 1", "rollback 2"]
    assert contract.TAG_HOLD in settled.registry.model_tags(NAME)


def test_going_back_from_nothing_is_refused(world: Any) -> None:
    world.publish()
    world.promoter.reconcile()

    with pytest.raises(UserError, match="no earlier version"):
        moves.roll_back(world.hands, why="?", now=world.now())


def test_a_version_that_is_quarantined_by_hand_is_passed_over(settled: Any) -> None:
    number = settled.publish(score=100)
    moves.quarantine(settled.hands, number, why="it swears", now=settled.now())

    settled.promoter.reconcile()

    assert settled.production == 2
    assert settled.tags(number)[contract.TAG_REASON] == "it swears"


def test_release_ends_hold_and_freeze(settled: Any) -> None:
    moves.hold(settled.hands, why="a", now=settled.now())
    moves.freeze(settled.hands, why="b", now=settled.now())

    said = moves.release(settled.hands, why="done", now=settled.now())

    assert "released" in said
    assert not {contract.TAG_HOLD, contract.TAG_FREEZE} & set(settled.registry.model_tags(NAME))
    assert moves.release(settled.hands, why="again", now=settled.now()) == "nothing was held or frozen"


@pytest.mark.parametrize("tag", [contract.TAG_HOLD, contract.TAG_FREEZE])
def test_a_hold_that_comes_while_the_judge_thinks_is_respected(settled: Any, tag: str) -> None:
    settled.publish(score=100)
    judge = settled.table.judge

    def think(*arguments: Any, **given: Any) -> Any:
        settled.registry.set_model_tag(NAME, tag, "stop")
        return judge(*arguments)

    settled.table.judge = think
    outcome = settled.promoter.reconcile()

    assert settled.production == 2
    assert "stop" in outcome.resting


def test_thousands_of_decisions_without_a_move_do_not_look_like_a_persons_move(settled: Any) -> None:
    for _ in range(2500):
        settled.registry.record_run(ledger.to_run(NAME, Entry(kind=ledger.KEEP, because="none is better")))

    asked = []
    find = settled.registry.find_runs
    settled.registry.find_runs = lambda *a, limit, **k: asked.append(limit) or find(*a, limit=limit, **k)
    outcome = settled.promoter.reconcile()

    assert outcome.resting == "nothing new"
    assert max(asked) <= 20
    assert contract.TAG_HOLD not in settled.registry.model_tags(NAME)


@pytest.mark.parametrize("kind", [ledger.FREEZE, ledger.QUARANTINE, ledger.RELEASE, ledger.FORGET])
def test_what_a_person_is_just_writing_down_is_no_intent_that_a_crash_left(settled: Any, kind: str) -> None:
    """A finished run takes MLflow several calls, and a pass may look between them."""
    half_written = Entry(
        kind=kind, because="a person's wish", target=settled.production, by="me@here", at=settled.now()
    )
    settled.hands.logbook.open(half_written)
    story = settled.registry.get_version(NAME, settled.production).description

    settled.promoter.reconcile()

    newest = settled.hands.logbook.newest(1)[0]
    assert (newest.kind, newest.because, newest.is_open) == (kind, "a person's wish", False)
    assert settled.registry.get_version(NAME, settled.production).description == story
