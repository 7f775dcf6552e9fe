"""A person moves the alias by command: where `rollback` leads, and what a move that goes wrong leaves behind."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline.promotion import ledger, moves
from pipeline.promotion.acting import Hands, SupersededError
from pipeline.promotion.ledger import Entry
from pipeline.promotion.stepping import Rest, Settle, next_step
from registry_hooks import contract
from registry_hooks.errors import RegistryUnavailableError, UnknownModelError, UserError
from tests.promoter.holds import hold_of

NAME = "model"


@pytest.fixture
def four(settled: Any) -> Any:
    """Versions 1 to 4, each promoted by the promoter after the one before it."""
    for score in (10, 20):
        settled.publish(score=score)
        settled.promoter.reconcile()
    return settled


def back(world: Any, **options: Any) -> int | None:
    moves.roll_back(world.hands, why="bad", now=world.now(), **options)
    world.promoter.reconcile()
    return world.production


def test_rolling_back_twice_is_two_steps_back_and_holds(four: Any) -> None:
    steps = [back(four), back(four), back(four)]
    four.publish(score=100)
    four.promoter.reconcile()

    assert steps == [3, 2, 1]
    assert (four.production, hold_of(four)) == (1, "rollback 1: bad")
    with pytest.raises(UserError, match="no earlier version"):
        back(four)


def test_rolling_back_passes_over_what_is_quarantined_or_gone(four: Any) -> None:
    moves.quarantine(four.hands, 3, why="it swears", now=four.now())
    four.registry.delete_version(NAME, 2)

    assert back(four) == 1


def test_rolling_back_passes_over_what_a_server_refuses(four: Any) -> None:
    four.registry.set_version_tag(NAME, 3, contract.refused_tag("box"), "its answers differ")

    assert back(four) == 2


def test_a_move_back_to_what_the_promoter_chose_and_had_to_leave_is_held(four: Any) -> None:
    four.registry.set_version_tag(NAME, 4, contract.refused_tag("box"), "its answers differ")
    four.promoter.reconcile()
    seen = [four.production]
    for target in (4, 1, 4):
        four.person_moves(target)
        four.promoter.reconcile()
        seen.append(four.production)

    assert seen == [3, 4, 1, 4]
    assert "moved outside of Relay" in str(hold_of(four))


def test_rolling_back_to_a_version_goes_there_whatever_is_on_record_of_it(four: Any) -> None:
    moves.quarantine(four.hands, 2, why="it swears", now=four.now())
    to_it = back(four, to=2)
    moves.release(four.hands, why="", now=four.now())

    assert to_it == 2
    assert four.registry.aliases(NAME)["LastGood"] == 3
    with pytest.raises(UnknownModelError):
        back(four, to=77)


def test_a_move_that_fails_leaves_the_hold_as_it_was(settled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise SupersededError("somebody was faster")

    monkeypatch.setattr(Hands, "move", fail)
    with pytest.raises(SupersededError):
        moves.promote(settled.hands, 1, why="try", now=settled.now())

    assert hold_of(settled) is None


def test_a_registry_that_goes_away_behind_a_move_leaves_it_held(settled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RegistryUnavailableError("a blip")

    with monkeypatch.context() as blip:
        blip.setattr(settled.registry, "close_run", fail)
        with pytest.raises(RegistryUnavailableError):
            moves.promote(settled.hands, 1, why="INCIDENT 42", now=settled.now())
    settled.publish(score=100)
    settled.promoter.reconcile()

    assert (settled.production, hold_of(settled)) == (1, "manual 1: INCIDENT 42")
    assert settled.kinds()[2:] == ["manual 1"]


def test_a_pass_leaves_a_command_that_still_runs_alone_and_settles_what_it_left(settled: Any) -> None:
    begun = settled.now()
    moves.hold(settled.hands, why="a move", now=begun)
    settled.hands.logbook.open(Entry(kind=ledger.MANUAL, because="nicer", target=1, by="ada@box", at=begun))
    settled.person_moves(1)
    seen = settled.promoter.look()
    steps = [
        next_step(replace(seen, terms=replace(seen.terms, now=begun + timedelta(seconds=seconds))))
        for seconds in (-30, 30, 150)
    ]

    assert steps[:2] == [Rest(because="ada@box is just moving Production to version 1")] * 2
    assert isinstance(steps[2], Settle)
    assert steps[2].adopt


@pytest.mark.parametrize("calls", range(40))
def test_last_good_never_names_what_is_in_production(settled: Any, calls: int) -> None:
    class Killed(BaseException):
        pass

    settled.publish(score=100)
    answering = settled.registry._answering
    left = iter(range(calls))

    def counted() -> Any:
        if next(left, None) is None:
            raise Killed
        return answering()

    settled.registry._answering = counted
    with contextlib.suppress(Killed):
        settled.promoter.reconcile()
    settled.registry._answering = answering

    assert settled.registry.aliases(NAME)["LastGood"] != settled.production
