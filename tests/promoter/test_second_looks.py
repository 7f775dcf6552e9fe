"""A person takes a verdict back, or forgets a server; what cannot be written down changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline.promotion import ledger, moves, reading, second_chances
from registry_hooks import contract
from registry_hooks.errors import DeletedExperimentError, UserError

NAME = "model"


def test_a_word_that_cannot_be_written_down_changes_nothing(settled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted(*_: Any, **__: Any) -> None:
        raise DeletedExperimentError("somebody deleted it", experiment="model/decisions")

    barred = settled.publish()
    moves.quarantine(settled.hands, barred, why="it swears", now=settled.now())
    settled.registry.set_model_tag(NAME, contract.server_tag("box"), "{}")
    settled.registry.set_version_tag(NAME, 1, contract.refused_tag("box"), "no")
    before = [settled.tags(number) for number in (1, 2, barred)], settled.registry.model_tags(NAME)
    monkeypatch.setattr(settled.registry, "find_runs", deleted)
    hands, now = settled.hands, settled.now()
    for word in (
        lambda: moves.quarantine(hands, 1, why="", now=now),
        lambda: second_chances.rejudge(hands, [1], why="", now=now),
        lambda: second_chances.unquarantine(hands, barred, why="", now=now),
        lambda: second_chances.forget(hands, "box", why="", now=now),
    ):
        with pytest.raises(DeletedExperimentError):
            word()

    assert before == ([settled.tags(number) for number in (1, 2, barred)], settled.registry.model_tags(NAME))


def test_why_for_programs_says_why_a_version_waits(settled: Any) -> None:
    moves.hold(settled.hands, why="INCIDENT 42", now=settled.now())
    number = settled.publish(score=100)
    settled.promoter.reconcile()
    told = {one: json.loads(reading.why_json(settled.hands, one))["waits"] for one in (2, number)}

    assert told[2] is None
    assert told[number].startswith("held: INCIDENT 42")


def test_a_version_is_judged_again_when_a_person_asks(settled: Any) -> None:
    number = settled.publish(score=5)
    settled.publish(score=0)
    settled.promoter.reconcile()
    settled.table.scores[number] = 100.0  # the test set was mended

    said = second_chances.rejudge(settled.hands, [number], why="mended", now=settled.now())
    settled.promoter.reconcile()

    assert said == f"the promoter judges version {number} again in its next pass"
    assert settled.production == number
    assert f"rejudge {number}" in settled.kinds()
    assert settled.table.asked[-1] == (2, (number,))


def test_a_second_look_that_is_asked_for_during_a_pass_is_not_hidden_by_its_end(settled: Any) -> None:
    kept = settled.publish(score=0)
    settled.promoter.reconcile()
    settled.publish(score=0)
    settled.promoter.reconcile()
    settled.publish(score=0)
    seen = settled.promoter.look()
    second_chances.rejudge(settled.hands, [kept], why="again", now=settled.now())

    settled.hands.note_judged_through(replace(seen, unjudged=()))

    assert settled.registry.model_tags(NAME)[contract.TAG_JUDGED_THROUGH] == str(kept - 1)


def test_a_quarantine_is_lifted_with_its_twins_and_judged_again(settled: Any) -> None:
    number = settled.publish(score=100)
    twin = settled.publish(score=100, digest=settled.tags(number)[contract.TAG_MANIFEST])
    settled.registry.set_version_tag(NAME, number, contract.refused_tag("box"), "no room")
    moves.quarantine(settled.hands, number, why="it swears", now=settled.now())
    settled.promoter.reconcile()
    with pytest.raises(UserError, match=f"relay unquarantine {number}"):
        second_chances.rejudge(settled.hands, [number], why="", now=settled.now())

    said = second_chances.unquarantine(settled.hands, number, why="it was the box", now=settled.now())
    settled.promoter.reconcile()

    assert said.startswith(f"versions {number}, {twin} may serve again")
    assert settled.production == number
    with pytest.raises(UserError, match="not quarantined"):
        second_chances.unquarantine(settled.hands, number, why="", now=settled.now())


def test_what_is_in_production_cannot_be_judged_again(settled: Any) -> None:
    with pytest.raises(UserError, match="what Production names"):
        second_chances.rejudge(settled.hands, [2], why="", now=settled.now())


def test_a_server_is_forgotten_by_a_person_or_after_days_of_silence(settled: Any) -> None:
    now = settled.now()

    def beat(server: str, hours_ago: float) -> None:
        seen = (now - timedelta(hours=hours_ago)).isoformat()
        settled.registry.set_model_tag(NAME, contract.server_tag(server), json.dumps({"seen": seen}))

    beat("old", 200)
    beat("new", 1)
    settled.registry.set_model_tag(NAME, contract.server_tag("odd"), "what is this?")
    settled.registry.set_version_tag(NAME, 2, contract.refused_tag("new"), "no room")
    settled.registry.set_version_tag(NAME, 1, contract.refused_tag("old"), "no room")
    by_itself = second_chances.forget_gone(settled.hands, after=timedelta(days=7), now=now)
    second_chances.forget(settled.hands, "new", why="sold", now=now)
    left = [key for key in settled.registry.model_tags(NAME) if key.startswith(contract.TAG_SERVER_PREFIX)]

    assert (by_itself, left) == (["old"], [contract.server_tag("odd")])
    assert contract.refused_tag("new") not in settled.tags(2)
    assert contract.refused_tag("old") not in settled.tags(1)  # of a server that nobody knows it would count
    told = [ledger.from_run(record) for record in settled.registry.records if record.params["kind"] == "forget"]
    assert [(one.by == ledger.PROMOTER, one.because[:12]) for one in told] == [
        (True, "server old: "),
        (False, "server new: "),
    ]
    with pytest.raises(UserError, match="known: odd"):
        second_chances.forget(settled.hands, "nobody", why="", now=now)
