"""What must not stop the promoter: versions that cannot serve or be scored, clocks, and tags that were copied."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline.promotion import ledger, moves, reading, waiting
from pipeline.promotion.acting import Judgement
from pipeline.promotion.judging import promoted
from pipeline.promotion.ledger import Entry
from pipeline.promotion.trying import MAX_FAULTS, Trouble
from registry_hooks import contract

NAME = "model"


def refuse(world: Any, number: int, server: str = "box") -> None:
    world.registry.set_version_tag(NAME, number, contract.refused_tag(server), "its answers differ")


def stop_the_clock(world: Any) -> None:
    now = world.now()
    world.promoter.clock = lambda: now


def test_the_way_back_is_as_long_as_it_has_to_be(settled: Any) -> None:
    for score in (10, 20):
        settled.publish(score=score)
        settled.promoter.reconcile()
    settled.registry.delete_version(NAME, 3)
    refuse(settled, 4)
    settled.promoter.reconcile()
    first = settled.production
    refuse(settled, 2)
    settled.promoter.reconcile()

    assert (first, settled.production) == (2, 1)
    assert settled.kinds()[-2:] == ["rollback 2", "rollback 1"]
    assert not any(record.failed for record in settled.registry.records)


def test_a_good_version_takes_the_place_of_a_first_one_that_was_refused(world: Any) -> None:
    world.publish(score=5)
    world.promoter.reconcile()
    refuse(world, 1)
    world.publish(score=5)

    world.promoter.reconcile()

    assert world.production == 2
    assert "server box refused version 1" in world.tags(1)[contract.TAG_REASON]
    assert "version 1, which Production names, is quarantined" in world.tags(2)[contract.TAG_REASON]
    assert contract.ALIAS_LAST_GOOD not in world.registry.aliases(NAME)


def test_one_that_lost_against_what_was_refused_later_serves_after_all(world: Any) -> None:
    world.publish(score=5)
    world.promoter.reconcile()
    world.publish(score=5)
    world.promoter.reconcile()
    refuse(world, 1)

    world.promoter.reconcile()

    assert world.production == 2


def test_a_persons_choice_that_a_server_refuses_is_no_bar_once_it_is_released(settled: Any) -> None:
    settled.person_moves(1)
    settled.promoter.reconcile()
    settled.registry.set_model_tag(NAME, contract.TAG_HOLD, None)
    refuse(settled, 1)
    settled.publish(score=0)

    settled.promoter.reconcile()

    assert settled.production == 3
    assert "server box refused version 1, which Production names" in settled.tags(3)[contract.TAG_REASON]


def test_an_alias_that_names_what_is_not_there_is_no_bar(settled: Any) -> None:
    """As a registry shows it in the moment in which somebody deletes the version."""
    seen = replace(settled.promoter.look(), incumbent=None)

    assert waiting.why_no_bar(seen) == "version 2, which Production names, is not there"


def test_what_is_in_production_is_deleted_and_what_served_before_comes_back(settled: Any) -> None:
    settled.registry.delete_version(NAME, 2)

    outcome = settled.promoter.reconcile()

    assert settled.production == 1
    assert outcome.done == ["version 2, which Production named, was deleted"]
    assert contract.TAG_HOLD not in settled.registry.model_tags(NAME)


def test_a_deleted_alias_stays_deleted_until_a_person_says_otherwise(settled: Any) -> None:
    settled.person_moves(None)
    settled.promoter.reconcile()
    moves.release(settled.hands, why="?", now=settled.now())
    settled.publish(score=-99)

    outcome = settled.promoter.reconcile()

    assert settled.production is None
    assert "Production was deleted by hand" in outcome.resting
    assert "Production was deleted by hand" in outcome.alerts[0]


def test_a_promoter_that_starts_late_promotes_the_best_of_those_that_wait(world: Any) -> None:
    for score in (1, 9, 3):
        world.publish(score=score)

    world.promoter.reconcile()

    assert world.kinds()[0] == "promote 2"


def test_one_odd_server_moves_nothing_while_another_serves_the_version(settled: Any) -> None:
    stop_the_clock(settled)
    settled.registry.set_model_tag(
        NAME, contract.server_tag("good"), json.dumps({"serving": 2, "seen": settled.promoter.clock().isoformat()})
    )
    refuse(settled, 2, "odd")

    outcome = settled.promoter.reconcile()

    assert settled.production == 2
    assert "server odd refuses version 2: its answers differ (it stays: good serves it)" in outcome.alerts


def test_what_a_server_declines_is_an_alert_and_moves_nothing(settled: Any) -> None:
    settled.registry.set_version_tag(NAME, 2, contract.declined_tag("small"), "it allows 512 tokens")

    outcome = settled.promoter.reconcile()

    assert (settled.production, outcome.alerts) == (2, ["server small does not serve version 2: it allows 512 tokens"])


def test_a_clock_that_is_ahead_changes_no_order(settled: Any) -> None:
    """A laptop 90 s ahead promotes by hand and releases; the promoter's own move comes after that."""
    stop_the_clock(settled)
    ahead = settled.promoter.clock() + timedelta(seconds=90)
    moves.promote(settled.hands, 1, why="?", now=ahead)
    moves.release(settled.hands, why="?", now=ahead)
    settled.publish(score=100)

    settled.promoter.reconcile()
    outcome = settled.promoter.reconcile()

    assert (settled.production, outcome.done) == (3, [])
    assert settled.kinds()[2:] == ["manual 1", "release 1", "promote 3"]
    assert contract.TAG_HOLD not in settled.registry.model_tags(NAME)


def unscored(counted: bool) -> Any:
    def judge(incumbent: Any, candidates: Any, **given: Any) -> Judgement:
        troubles = {one.version: Trouble(because="its engine died", is_counted=counted) for one in candidates}
        return Judgement(kind=ledger.ERROR, because="its engine died", unscored=troubles)

    return judge


def test_what_cannot_be_scored_is_tried_with_waits_is_an_alert_and_is_given_up(settled: Any) -> None:
    stop_the_clock(settled)
    settled.publish(score=100)
    settled.table.judge = unscored(counted=True)
    first, second = settled.promoter.reconcile(), settled.promoter.reconcile()
    behind = settled.promoter.clock() - timedelta(seconds=1)  # another machine's clock
    settled.promoter.clock = lambda: behind
    by_hand = settled.promoter.reconcile(is_patient=False)
    settled.promoter.clock = settled.now
    for _ in range(MAX_FAULTS):
        settled.promoter.reconcile()

    assert first.resting == "error: its engine died"
    assert "version 3: it could not be scored: its engine died (1 try" in second.resting
    assert "version 3 could not be scored: its engine died (1 try" in second.alerts[0]
    assert by_hand.done == ["error: its engine died"]
    assert settled.tags(3)[contract.TAG_STATE] == "rejected"
    assert "could not be scored in 10 tries" in settled.tags(3)[contract.TAG_REASON]
    assert settled.kinds()[2:] == ["error none", "error none"]


def test_waits_go_on_after_a_restart_and_end_with_the_first_success(settled: Any) -> None:
    stop_the_clock(settled)
    settled.publish(score=100)
    settled.table.broken = "the card is full"
    settled.promoter.reconcile()
    settled.table.broken = ""
    resting = settled.promoter.reconcile().resting
    settled.promoter.clock = settled.now
    settled.promoter.reconcile()

    assert resting.startswith("version 3: the card is full (1 try; next not before")
    assert settled.production == 3
    assert contract.TAG_TRIES not in settled.registry.model_tags(NAME)


def test_an_incumbent_that_is_never_scored_is_no_bar_in_the_end(settled: Any) -> None:
    settled.publish(score=0)
    num_tries = 0

    def judge(incumbent: Any, candidates: Any, *, gives_up: bool) -> Judgement:
        nonlocal num_tries
        if gives_up:
            return promoted(3, "version 2 is no bar")
        num_tries += 1
        return Judgement(kind=ledger.ERROR, because="version 2 could not be scored", is_counted=True)

    settled.table.judge = judge
    for _ in range(MAX_FAULTS + 1):
        settled.promoter.reconcile()

    assert (settled.production, num_tries) == (3, MAX_FAULTS)
    assert settled.tags(3)[contract.TAG_REASON] == "version 2 is no bar"


def test_a_pass_in_which_somebody_acts_all_the_time_ends_with_an_alert(settled: Any) -> None:
    settled.publish(score=100)
    think = settled.table.judge

    def judge(*arguments: Any, **given: Any) -> Any:
        settled.publish(score=100 + len(settled.table.asked))
        judgement = think(*arguments)
        settled.registry.delete_version(NAME, judgement.winner)
        return judgement

    settled.table.judge = judge
    outcome = settled.promoter.reconcile()

    assert sum(record.failed for record in settled.registry.records) == 3
    assert "went in circles" in outcome.alerts[0]


def test_a_copied_version_is_judged_as_any_other(settled: Any) -> None:
    settled.publish(score=1)
    refuse(settled, 3)
    settled.promoter.reconcile()
    for number in (1, 2, 3):
        settled.registry.copy_version(NAME, number, "prod")
    settled.table.scores = {1: 1, 2: 5, 3: 9}
    settled.promoter.hands = type(settled.hands)(
        registry=settled.registry, book=settled.registry, name="prod", alias="Production"
    )

    settled.promoter.reconcile()

    aliases = settled.registry.aliases("prod")
    assert aliases["Production"] == 3
    told = settled.registry.get_version("prod", 3).tags
    assert (told[contract.TAG_STATE], told[contract.TAG_OF]) == ("admitted", "prod/3")
    assert contract.refused_tag("box") not in told


def test_nothing_is_read_of_those_that_wait_while_nothing_can_be_decided(settled: Any) -> None:
    stop_the_clock(settled)
    for _ in range(20):
        settled.publish(score=100)
    settled.table.broken = "the card is full"
    settled.promoter.reconcile()
    num_asked = len(settled.table.asked)

    settled.promoter.reconcile()

    assert len(settled.table.asked) == num_asked


@pytest.mark.parametrize("removes", [False, True])
def test_relay_why_tells_why_a_version_waits(settled: Any, removes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    settled.publish(score=100)
    settled.registry.set_version_tag(NAME, 3, contract.TAG_STATE, contract.STATE_ADMITTED)
    if removes:
        settled.person_moves(None)
        settled.hands.logbook.write(Entry(kind=ledger.MANUAL, because="", target=None, by=ledger.PERSON))

    reading.show(reading.why(settled.hands, 3))

    wanted = "It waits: Production was deleted by hand" if removes else "It waits: it is to be compared with version 2"
    assert wanted in capsys.readouterr().out
