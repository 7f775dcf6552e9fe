"""The promoter over a registry in memory: what it does, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promotion import ledger, reconciling
from pipeline.promotion.acting import Judgement
from pipeline.promotion.description import with_block
from pipeline.promotion.ledger import Entry
from pipeline.promotion.rule import Rule
from pipeline.promotion.stepping import next_step
from registry_hooks import contract
from registry_hooks.errors import RegistryUnavailableError, UnknownModelError

NAME = "model"


def test_the_first_version_is_promoted_and_a_better_one_after_it(settled: Any) -> None:
    assert settled.production == 2
    assert settled.kinds() == ["promote 1", "promote 2"]
    assert settled.registry.aliases(NAME) == {"Production": 2, "Candidate": 2, "LastGood": 1}
    assert settled.registry.get_version(NAME, 2).description == "<!-- relay -->\n\nstory of 2\n\n<!-- /relay -->"
    assert settled.tags(2)[contract.TAG_REASON] == "reason of 2"
    assert settled.registry.model_tags(NAME)[contract.TAG_JUDGED_THROUGH] == "2"


def test_a_pass_without_news_changes_nothing(settled: Any) -> None:
    before = settled.kinds()

    outcome = settled.promoter.reconcile()

    assert (outcome.done, outcome.resting) == ([], "nothing new")
    assert settled.kinds() == before


def test_a_version_that_is_not_better_is_kept_out_with_its_reason(settled: Any) -> None:
    worse = settled.publish(score=5.5)
    settled.promoter.reconcile()

    assert settled.production == 2
    assert settled.kinds()[-1] == "keep none"
    assert settled.tags(worse)[contract.TAG_REASON] == f"reason of {worse}"
    assert settled.table.asked == [(0, (1,)), (1, (2,)), (2, (3,))]


def test_a_version_that_a_server_refuses_is_quarantined_and_never_returns(settled: Any) -> None:
    settled.registry.set_version_tag(NAME, 2, contract.refused_tag("box"), "its answers differ")
    settled.promoter.reconcile()
    again = settled.publish(score=100, digest=settled.tags(2)[contract.TAG_MANIFEST])
    settled.promoter.reconcile()

    assert settled.production == 1
    assert settled.tags(2)[contract.TAG_STATE] == settled.tags(again)[contract.TAG_STATE] == "quarantined"
    assert "its answers differ" in settled.tags(2)[contract.TAG_REASON]
    assert settled.kinds()[-1] == "rollback 1"


def test_the_first_version_has_nowhere_to_go_back_to(world: Any) -> None:
    world.publish()
    world.promoter.reconcile()
    world.registry.set_version_tag(NAME, 1, contract.refused_tag("box"), "broken")

    world.promoter.reconcile()
    world.promoter.reconcile()

    assert world.production == 1
    assert world.tags(1)[contract.TAG_STATE] == "quarantined"
    assert "no earlier version" in world.tags(1)[contract.TAG_REASON]


@pytest.mark.parametrize(
    ("tags", "digest", "reason"),
    [
        ({"nonfinite_metrics": "eval_loss=nan"}, None, "not finite: eval_loss=nan"),
        ({}, "", "not published by Relay"),
        ({}, f"{1:064x}", "the same files as version 1"),
    ],
)
def test_what_cannot_compete_is_rejected_with_its_reason(
    settled: Any, tags: dict[str, str], digest: str | None, reason: str
) -> None:
    settled.promoter.rule = Rule(score_metric="eval_loss")
    version = settled.publish(score=100, digest=digest, **tags)
    if digest == "":
        settled.registry.set_version_tag(NAME, version, contract.TAG_MANIFEST, None)

    settled.promoter.reconcile()

    assert settled.production == 2
    assert settled.tags(version)[contract.TAG_STATE] == "rejected"
    assert reason in settled.tags(version)[contract.TAG_REASON]
    assert reason in settled.registry.get_version(NAME, version).description or digest == ""


def test_an_error_of_the_judge_is_on_record_once_and_nobody_is_judged(settled: Any) -> None:
    settled.publish(score=100)
    settled.table.broken = "the engine hung"
    settled.promoter.reconcile()
    settled.promoter.reconcile()
    on_record = settled.kinds()[2:]
    settled.table.broken = ""
    settled.promoter.reconcile()

    assert on_record == ["error none"]
    assert settled.production == 3


def test_a_winner_that_is_deleted_meanwhile_is_not_promoted(settled: Any) -> None:
    settled.publish(score=100)
    think = settled.table.judge

    def judge(*arguments: Any, **given: Any) -> Any:
        judgement = think(*arguments)
        settled.registry.delete_version(NAME, 3)
        return judgement

    settled.table.judge = judge
    outcome = settled.promoter.reconcile()

    assert settled.production == 2
    assert outcome.resting == "nothing new"
    assert settled.registry.records[-1].failed


def test_a_registry_that_is_away_or_empty_is_named(world: Any) -> None:
    with pytest.raises(UnknownModelError):
        world.promoter.reconcile()
    world.publish()
    world.registry.down = True
    with pytest.raises(RegistryUnavailableError):
        world.promoter.reconcile()


def test_a_thousand_versions_are_admitted_and_judged_in_one_pass(settled: Any) -> None:
    for number in range(1000):
        settled.publish(score=6 + number / 1000)

    settled.promoter.reconcile()

    assert settled.production == 1002
    assert settled.registry.model_tags(NAME)[contract.TAG_JUDGED_THROUGH] == "1002"


def test_a_silent_server_and_a_look_alike_are_alerts_and_move_nothing(settled: Any) -> None:
    now = settled.now()
    settled.registry.set_model_tag(NAME, contract.server_tag("old"), f'{{"seen": "{now.isoformat()}"}}')
    stopped = f'{{"seen": "{now.isoformat()}", "stopped": true}}'
    settled.registry.set_model_tag(NAME, contract.server_tag("off"), stopped)
    settled.registry.set_model_tag(NAME, contract.server_tag("odd"), "nonsense")
    settled.registry.set_alias(NAME, "production", 1)

    outcome = settled.promoter.reconcile()

    assert settled.production == 2
    assert len(outcome.alerts) == 2
    assert "alias 'production'" in outcome.alerts[0]
    assert "server old has been silent" in outcome.alerts[1]


def test_a_dry_run_says_what_would_come_next(settled: Any) -> None:
    def next_one() -> str:
        return reconciling.describe(next_step(settled.promoter.look()))

    said = [next_one()]
    settled.publish(score=100)
    said.append(next_one())
    settled.registry.set_version_tag(NAME, 3, contract.TAG_STATE, contract.STATE_ADMITTED)
    said.append(next_one())
    settled.registry.set_version_tag(NAME, 2, contract.refused_tag("box"), "no")
    said.append(next_one())
    settled.person_moves(1)
    said.append(next_one())
    settled.registry.open_run(ledger.to_run(NAME, Entry(kind=ledger.PROMOTE, because="it is better", target=1)))
    said.append(next_one())

    assert said == [
        "nothing: nothing new",
        "version 3 admitted: published whole; it waits to be compared",
        "compare version 2, in production, with 3",
        "go back to version 1: server box refused version 2: no",
        "write down: Production was moved outside of Relay, from version 2 to version 1; and hold",
        "settle an interrupted decision: it is better (interrupted, and adopted: the alias names version 1)",
    ]
    assert settled.kinds() == ["promote 1", "promote 2", "promote 1"]


def test_what_the_first_dry_run_says(world: Any) -> None:
    world.publish()
    world.registry.set_version_tag(NAME, 1, contract.TAG_STATE, contract.STATE_ADMITTED)

    said = reconciling.describe(next_step(world.promoter.look()))

    assert said == "promote the best of 1: Production named nothing"


def test_a_candidate_that_can_never_be_scored_is_rejected_and_the_pass_goes_on(settled: Any) -> None:
    settled.publish(score=100)
    settled.publish(score=200)
    judge = settled.table.judge

    def first_rejects(incumbent: Any, candidates: Any, **given: Any) -> Judgement:
        if len(candidates) == 2:
            return Judgement(kind="error", because="one of them is broken", rejected={3: "item 7: nan"}, document="{}")
        found: Judgement = judge(incumbent, candidates)
        return found

    settled.table.judge = first_rejects
    settled.promoter.reconcile()

    assert settled.production == 4
    assert settled.tags(3)[contract.TAG_STATE] == "rejected"
    assert settled.registry.get_version(NAME, 3).description == with_block("", "**Rejected**: item 7: nan.")
    assert settled.kinds()[2:] == ["error none", "promote 4"]


def test_what_is_in_production_has_a_verdict_also_when_a_crash_came_before_it(settled: Any) -> None:
    settled.registry.set_version_tag(NAME, 2, contract.TAG_JUDGED, None)
    settled.registry.set_model_tag(NAME, contract.TAG_JUDGED_THROUGH, None)
    dry = reconciling.describe(next_step(settled.promoter.look()))

    outcome = settled.promoter.reconcile()

    assert (dry, outcome.done) == ("write the verdict on version 2 down: 2 is better", ["2 is better"])
    assert settled.tags(2)[contract.TAG_JUDGED] == settled.promoter.look().last_move.run_id
    assert settled.registry.model_tags(NAME)[contract.TAG_JUDGED_THROUGH] == "2"


def test_a_promotion_that_a_crash_cut_after_the_alias_was_set_is_adopted_with_its_verdict(settled: Any) -> None:
    number = settled.publish(score=100)
    entry = Entry(kind=ledger.PROMOTE, because="it is better", target=number, previous=2)
    settled.registry.open_run(ledger.to_run(NAME, entry))
    settled.person_moves(number)  # what the promoter had just written

    settled.promoter.reconcile()

    assert settled.production == number
    assert contract.TAG_HOLD not in settled.registry.model_tags(NAME)
    assert "interrupted, and adopted" in settled.tags(number)[contract.TAG_REASON]
    assert settled.registry.get_version(NAME, number).description.startswith("<!-- relay -->\n\n**Promoted**")
