"""A person's word stands: what they hold, where they go back to, what they wrote, and what they take back."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline.promotion import ledger, moves, reading, second_chances
from pipeline.promotion.acting import Hands, SupersededError
from pipeline.promotion.description import with_block
from pipeline.promotion.ledger import Entry
from pipeline.promotion.marks import read_mark
from pipeline.promotion.reconciling import Promoter
from pipeline.promotion.stepping import Rest, Settle, next_step
from registry_hooks import contract
from registry_hooks.errors import DeletedExperimentError, RegistryUnavailableError, UnknownModelError, UserError

NAME = "model"


@pytest.fixture
def four(settled: Any) -> Any:
    """Versions 1 to 4, each promoted by the promoter after the one before it."""
    for score in (10, 20):
        settled.publish(score=score)
        settled.promoter.reconcile()
    return settled


def hold_of(world: Any) -> str | None:
    mark = read_mark(world.registry.model_tags(NAME).get(contract.TAG_HOLD))
    return mark.why if mark is not None else None


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


def test_a_hold_on_purpose_outlives_moves_by_hand_and_back_again(settled: Any) -> None:
    moves.hold(settled.hands, why="INCIDENT 42", now=settled.now())
    seen = []
    for target in (1, 2):
        settled.person_moves(target)
        settled.promoter.reconcile()
        seen.append(hold_of(settled))
    moves.promote(settled.hands, 1, why="try", now=settled.now())
    seen.append(hold_of(settled))
    settled.publish(score=100)
    settled.promoter.reconcile()

    assert seen == ["INCIDENT 42"] * 3
    assert settled.production == 1


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


def test_promoting_what_is_in_production_holds_it_there(settled: Any) -> None:
    said = moves.promote(settled.hands, 2, why="the demo", now=settled.now())
    settled.publish(score=100)
    settled.promoter.reconcile()

    assert "names version 2 already; nothing was moved, and the promoter leaves it there" in said
    assert (settled.production, hold_of(settled)) == (2, "manual 2: the demo")


def test_promoting_what_somebody_has_just_moved_by_hand_is_one_entry(settled: Any) -> None:
    settled.person_moves(1)
    moves.promote(settled.hands, 1, why="the demo", now=settled.now())
    settled.promoter.reconcile()

    assert settled.kinds()[2:] == ["manual 1"]


def test_what_people_wrote_in_a_description_stays(settled: Any) -> None:
    number = settled.publish(score=100)
    settled.registry.describe_version(NAME, number, "Trained by Ada. **Do not delete.**")
    settled.promoter.reconcile()
    first = settled.registry.get_version(NAME, number).description
    settled.registry.describe_version(NAME, number, first + "\n\nSeen by Bob.")
    moves.quarantine(settled.hands, number, why="it swears", now=settled.now())
    second = settled.registry.get_version(NAME, number).description

    assert first.startswith("Trained by Ada. **Do not delete.**\n\n<!-- relay -->")
    assert f"story of {number}" in first
    assert second.startswith("Trained by Ada. **Do not delete.**\n\n<!-- relay -->\n\n**Quarantined**: it swears.")
    assert second.endswith("<!-- /relay -->\n\nSeen by Bob.")


def test_a_version_that_relay_did_not_publish_is_not_described(settled: Any) -> None:
    version = settled.registry.add_version(NAME, artifact_uri="s3://b/x")
    settled.registry.describe_version(NAME, version.version, "licence: CC-BY")
    settled.promoter.reconcile()

    assert settled.registry.get_version(NAME, version.version).description == "licence: CC-BY"
    assert settled.tags(version.version)[contract.TAG_STATE] == "rejected"


def test_a_block_is_cut_before_a_persons_text_is_and_one_without_its_end_is_a_text_of_people() -> None:
    long = with_block("Ada " * 1000, "b" * 3000)
    crowded = with_block("Ada " * 1240, "b" * 3000)
    broken = with_block("<!-- relay -->\n\nhalf", "**Kept**: yes")

    assert (len(long) <= 5000, long.startswith("Ada Ada"), long.endswith("<!-- /relay -->")) == (True, True, True)
    assert crowded == "Ada " * 1240
    assert broken.startswith("<!-- relay -->\n\nhalf\n\n<!-- relay -->\n\n**Kept**: yes")
    assert with_block(broken, "**Kept**: no") == broken.replace("yes", "no")


def test_a_move_of_another_alias_leaves_this_ones_hold(settled: Any) -> None:
    moves.hold(settled.hands, why="INCIDENT 42", now=settled.now())
    staging = replace(settled.hands, alias="Staging")
    moves.promote(staging, 1, why="try it there", now=settled.now())
    said = moves.release(staging, why="", now=settled.now())
    settled.promoter.reconcile()

    assert "released" in said
    assert (settled.production, hold_of(settled)) == (2, "INCIDENT 42")
    assert settled.registry.aliases(NAME)["Staging"] == 1
    assert [kind for kind in settled.kinds() if "manual" in kind] == ["manual 1"]
    assert "holds all aliases" in moves.release(staging, why="", now=settled.now())


def test_what_a_person_tries_under_another_alias_still_competes(settled: Any) -> None:
    number = settled.publish(score=100)
    staging = replace(settled.hands, alias="Staging")
    moves.promote(staging, number, why="try it there", now=settled.now())
    told = settled.registry.get_version(NAME, number).description
    settled.promoter.reconcile()

    assert "Staging: **Manual** by " in told
    assert settled.production == number
    assert settled.kinds()[2:] == [f"manual {number}", f"promote {number}"]


def test_two_promoters_of_two_aliases_each_judge_what_comes(settled: Any) -> None:
    staging = Promoter(hands=replace(settled.hands, alias="Staging"), judge=settled.table, clock=settled.now)
    staging.reconcile()
    number = settled.publish(score=100)
    for promoter in (settled.promoter, staging, settled.promoter):
        promoter.reconcile()
    moves.quarantine(settled.hands, number, why="it swears", now=settled.now())
    second_chances.unquarantine(settled.hands, number, why="it does not", now=settled.now())
    outcomes = [promoter.reconcile() for promoter in (settled.promoter, staging)]

    aliases = settled.registry.aliases(NAME)
    assert (aliases["Production"], aliases["Staging"]) == (number, number)
    assert [outcome.resting for outcome in outcomes] == ["nothing new"] * 2
    assert (
        settled.registry.model_tags(NAME).items()
        >= {
            contract.TAG_JUDGED_THROUGH: str(number),
            contract.judged_through_tag("Staging"): str(number),
        }.items()
    )


def test_without_a_ledger_nothing_is_concluded_about_people(settled: Any) -> None:
    settled.registry.records.clear()  # the experiment was removed for good, or the model renamed

    outcome = settled.promoter.reconcile()
    settled.publish(score=100)
    settled.promoter.reconcile()

    assert (len(outcome.done), hold_of(settled)) == (1, None)
    assert "no decision of model is on record" in outcome.done[0]
    assert settled.kinds() == ["adopt 2", "promote 3"]


def test_a_persons_first_choice_is_held_also_where_it_was_seen_and_could_not_compete(world: Any) -> None:
    world.publish()
    world.registry._models[NAME].versions[1].tags.pop(contract.TAG_MANIFEST)  # another tool made it
    world.promoter.reconcile()
    world.person_moves(1)
    world.publish(score=100)
    world.promoter.reconcile()

    assert (world.production, world.kinds()) == (1, ["manual 1"])
    assert "moved outside of Relay" in str(hold_of(world))


def test_a_version_that_a_person_put_there_before_the_first_pass_is_held(world: Any) -> None:
    world.publish()
    world.person_moves(1)

    world.promoter.reconcile()

    assert (world.production, world.kinds()) == (1, ["manual 1"])
    assert "moved outside of Relay" in str(hold_of(world))


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


def test_entries_of_before_the_alias_was_written_down_still_name_what_a_person_did(settled: Any) -> None:
    record = ledger.to_run(NAME, Entry(kind=ledger.MANUAL, because="", target=1, at=settled.now()))
    old = {key: value for key, value in record.params.items() if key not in ("alias", "moves")}

    assert ledger.from_run(replace(record, params=old)).alias == "Production"
