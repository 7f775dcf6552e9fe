"""A person's word stands: what they hold, what they wrote, and what they try under another alias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.promotion import ledger, moves, second_chances
from pipeline.promotion.description import with_block
from pipeline.promotion.ledger import Entry
from pipeline.promotion.reconciling import Promoter
from registry_hooks import contract
from tests.promoter.holds import hold_of

NAME = "model"


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


def test_entries_of_before_the_alias_was_written_down_still_name_what_a_person_did(settled: Any) -> None:
    record = ledger.to_run(NAME, Entry(kind=ledger.MANUAL, because="", target=1, at=settled.now()))
    old = {key: value for key, value in record.params.items() if key not in ("alias", "moves")}

    assert ledger.from_run(replace(record, params=old)).alias == "Production"
