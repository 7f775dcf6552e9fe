"""Random histories of promoter, person, servers and a failing registry: the invariants hold after every step.

No pass goes in circles, or makes a decision that is void while nobody else acts. With a good model waiting and nothing
held, it is judged in the end.

I3 a person's move is never undone. I5 a decision is committed at most once. I6 a quarantined digest never returns by
itself. I9 every version ends with a verdict and a reason. I10 the silence of a server moves nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.evaluation.results import Evaluation, ItemScore
from pipeline.promotion import ledger, moves, second_chances
from pipeline.promotion.acting import Hands
from pipeline.promotion.judging import ItemJudge
from pipeline.promotion.policy import Policy
from pipeline.promotion.reconciling import Promoter
from pipeline.promotion.standing import is_judged
from pipeline.promotion.trying import MAX_FAULTS
from registry_hooks import contract
from registry_hooks.errors import EvaluationError, RelayError, UserError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion

NAME, PRODUCTION = "model", contract.ALIAS_PRODUCTION
# A move that was seen, one that was settled, a way back, a promotion, and the comparisons that follow from it.
MAX_DECISIONS = 8
NUM_HISTORIES = int(os.environ.get("RELAY_TEST_HISTORIES", "2000"))


class Killed(BaseException):
    """The process was killed here."""


class Registry(MemoryPromotion):
    """At the n-th call of its ports it kills whoever asks, or it goes away."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left: int | None = None
        self.calls_until_down: int | None = None
        self.automatic_targets: list[int | None] = []

    def _answering(self) -> Any:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed
        if self.calls_until_down is not None:
            self.calls_until_down -= 1
            self.down = self.down or self.calls_until_down < 0
        return super()._answering()

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        super().set_alias(name, alias, version)
        if alias == PRODUCTION:
            self.automatic_targets.append(version)


class Bench:
    """Scores that a real judge asks for: by version, or why there is none.

    Attributes:
        scores: Of each version, 0 to 5.
        faults: Versions that cannot be scored: `item` (the test set does not work on them), `crash` (its
            engine dies).
        forms: What a version brings along beside its weights.
        is_full: Whether the card has no room for anybody.
    """

    def __init__(self, registry: Registry) -> None:
        self.scores: dict[int, int] = {}
        self.faults: dict[int, str] = {}
        self.forms: dict[int, str] = {}
        self.is_full = False
        self._registry = registry

    def judge(self) -> ItemJudge:
        return ItemJudge(
            source=self._registry,
            policy=Policy.model_validate({"primary": "loss", "num_flips": 100}),
            compare_url=lambda versions: None,
            known=lambda version: None,
            evaluate=self._evaluate,
        )

    def _evaluate(self, version: ModelVersion) -> Evaluation:
        if self.is_full:
            raise EvaluationError("the card has no room", stage="room", transient=True)
        self._registry.get_run(version.run_id or "")
        if fault := self.faults.get(version.version):
            raise EvaluationError(f"{fault}!", stage="asking", transient=fault == "crash")
        loss, form = 6.0 - self.scores[version.version], {"template": self.forms.get(version.version, "")}
        items = tuple(
            ItemScore(item_id=str(n), slice="", scorer="exact_match", score=0.0, loss=loss, num_tokens=1, said="")
            for n in range(8)
        )
        return Evaluation(
            test_set="t",
            test_set_digest="d",
            fingerprint="f",
            items=items,
            seconds=1.0,
            device="cpu",
            dtype="f",
            form=form,
        )


class History(RuleBasedStateMachine):
    """One registered model and all who touch it."""

    @initialize(begins_diverged=st.booleans())
    def begin(self, begins_diverged: bool) -> None:
        self.registry = Registry()
        self.bench = Bench(self.registry)
        self.persons: tuple[int | None] | None = None
        self.num_published = self.num_moves_by_hand = 0
        self.time, self.skew = datetime(2026, 1, 1, tzinfo=UTC), timedelta(0)
        self._start_promoter()
        self._publish(0, None, diverged=begins_diverged)
        self._pass()

    def _start_promoter(self) -> None:
        self.hands = Hands(registry=self.registry, book=self.registry, name=NAME, alias=PRODUCTION)
        self.promoter = Promoter(hands=self.hands, judge=self.bench.judge(), clock=self._now)

    def _now(self) -> datetime:
        """Time stands still within a step, and the clock of whoever asks may be ahead of, or behind, the true time."""
        return self.time + self.skew

    def _publish(self, score: int, twin_of: int | None, *, diverged: bool = False) -> None:
        self.num_published += 1
        digest = f"{twin_of or self.num_published:064x}"
        tags = {contract.TAG_MANIFEST: digest}
        version = self.registry.add_version(
            NAME, artifact_uri="s3://b/x", tags=tags, metrics={"eval_loss": math.nan if diverged else 6.0 - score}
        )
        self.bench.scores[version.version] = score

    @property
    def versions(self) -> list[int]:
        return sorted(self.registry._models[NAME].versions)

    @property
    def production(self) -> int | None:
        return self.registry._models[NAME].aliases.get(PRODUCTION)

    def _pass(self) -> None:
        before = len(self.registry.automatic_targets)
        barred = {
            digest
            for digest, version in self._digests()
            if version.tags.get(contract.TAG_STATE) == contract.STATE_QUARANTINED
        }
        written = len(self.registry.records)
        with contextlib.suppress(RelayError):
            outcome = self.promoter.reconcile()
            assert "circles" not in outcome.resting
        news = [ledger.from_run(record) for record in self.registry.records[written:]]
        assert len(news) <= MAX_DECISIONS, "a pass makes a bounded number of decisions"
        assert sum(entry.is_void for entry in news) == 0, "nobody else acted, so no decision is void"
        for target in self.registry.automatic_targets[before:]:
            assert dict(self._numbers())[target] not in barred, "I6: a quarantined digest came back by itself"

    def _digests(self) -> list[tuple[str | None, Any]]:
        return [(version.digest, version) for version in self.registry._models[NAME].versions.values()]

    def _numbers(self) -> list[tuple[int | None, str | None]]:
        return [(number, version.digest) for number, version in self.registry._models[NAME].versions.items()]

    @rule(score=st.integers(0, 5), diverged=st.booleans())
    def a_checkpoint_is_published(self, score: int, diverged: bool) -> None:
        self._publish(score, None, diverged=diverged)

    @rule(data=st.data(), score=st.integers(0, 5))
    def the_same_files_are_published_again(self, data: Any, score: int) -> None:
        self._publish(score, data.draw(st.integers(1, self.num_published)))

    @rule()
    def the_promoter_passes(self) -> None:
        self._pass()

    @rule(calls=st.integers(0, 60))
    def the_promoter_is_killed_and_started_again(self, calls: int) -> None:
        self.registry.calls_left = calls
        with contextlib.suppress(Killed):
            self._pass()
        self.registry.calls_left = None
        self._start_promoter()

    @rule(calls=st.integers(0, 60))
    def the_registry_goes_away_in_the_middle_of_a_pass(self, calls: int) -> None:
        self.registry.calls_until_down = calls
        self._pass()
        self.registry.calls_until_down, self.registry.down = None, True

    @rule()
    def the_registry_comes_back(self) -> None:
        self.registry.down = False

    @rule(data=st.data())
    def a_person_moves_the_alias(self, data: Any) -> None:
        target = data.draw(st.sampled_from([None, *self.versions]))
        known = self._last_committed()
        if self.registry.down:
            return
        is_change = target != self.production
        MemoryPromotion.set_alias(self.registry, NAME, PRODUCTION, target)
        self.num_moves_by_hand += 1
        if not is_change:  # as where an alias is deleted that went with its version: nothing of it is to be seen
            return
        own_choice = self._last_choice()
        # Back to where the last record says it is: nobody can see that, and nothing changed.
        visible = target != known
        self.persons = (target,) if visible and not (target == own_choice and self._is_held()) else None

    @rule(data=st.data())
    @precondition(lambda self: not self.registry.down)
    def a_person_moves_it_by_command(self, data: Any) -> None:
        target = data.draw(st.sampled_from(self.versions))
        before = len(self.registry.automatic_targets)
        with contextlib.suppress(RelayError):
            moves.promote(self.hands, target, why="?", now=self._now())
        del self.registry.automatic_targets[before:]
        self.persons = (target,) if self._is_held() and self.production == target else None

    @rule(data=st.data(), calls=st.integers(0, 40))
    @precondition(lambda self: not self.registry.down)
    def a_command_is_killed_or_loses_the_registry(self, data: Any, calls: int) -> None:
        target, is_killed = data.draw(st.sampled_from(self.versions)), data.draw(st.booleans())
        before = len(self.registry.automatic_targets)
        if is_killed:
            self.registry.calls_left = calls
        else:
            self.registry.calls_until_down = calls
        with contextlib.suppress(Killed, RelayError):
            moves.promote(self.hands, target, why="?", now=self._now())
        self.registry.calls_left = self.registry.calls_until_down = None
        self.registry.down = False
        if len(self.registry.automatic_targets) > before:  # it was moved: whatever came then, that stands
            self.persons = (target,)
        del self.registry.automatic_targets[before:]

    @rule()
    @precondition(lambda self: not self.registry.down)
    def a_person_goes_back_by_command(self) -> None:
        before = len(self.registry.automatic_targets)
        with contextlib.suppress(UserError, RelayError):
            moves.roll_back(self.hands, why="?", now=self._now())
            self.persons = (self.production,) if self._is_held() else None
        del self.registry.automatic_targets[before:]

    @rule()
    @precondition(lambda self: not self.registry.down)
    def a_person_deletes_the_hold(self) -> None:
        if self._is_held():
            self.registry.set_model_tag(NAME, contract.TAG_HOLD, None)
            self.persons = None

    @rule(data=st.data(), server=st.sampled_from(["box", "gone"]))
    def a_server_refuses_a_version(self, data: Any, server: str) -> None:
        if not self.registry.down:
            number = data.draw(st.sampled_from(self.versions))
            self.registry.set_version_tag(NAME, number, contract.refused_tag(server), "no")

    @rule(data=st.data())
    def a_server_declines_a_version(self, data: Any) -> None:
        if not self.registry.down:
            number = data.draw(st.sampled_from(self.versions))
            self.registry.set_version_tag(NAME, number, contract.declined_tag("box"), "too long for it")

    @rule(data=st.data(), server=st.sampled_from(["box", "gone", "other"]))
    def a_server_serves_a_version_or_stops(self, data: Any, server: str) -> None:
        if not self.registry.down:
            number = data.draw(st.sampled_from([None, *self.versions]))
            beat = {"serving": number, "seen": self.time.isoformat(), "stopped": server == "gone"}
            self.registry.set_model_tag(NAME, contract.server_tag(server), json.dumps(beat))

    @rule(data=st.data(), fault=st.sampled_from(["item", "crash", ""]))
    def a_version_cannot_be_scored(self, data: Any, fault: str) -> None:
        self.bench.faults[data.draw(st.sampled_from(self.versions))] = fault

    @rule(data=st.data())
    def a_version_has_another_form(self, data: Any) -> None:
        self.bench.forms[data.draw(st.sampled_from(self.versions))] = "another template"

    @rule(is_full=st.booleans())
    def the_card_fills_or_empties(self, is_full: bool) -> None:
        self.bench.is_full = is_full

    @rule(data=st.data())
    def a_run_is_deleted(self, data: Any) -> None:
        version = self.registry._models[NAME].versions[data.draw(st.sampled_from(self.versions))]
        self.registry.delete_run(version.run_id or "")

    @rule(minutes=st.sampled_from([-120, -2, 0, 2, 120]))
    def the_next_one_to_act_has_another_clock(self, minutes: int) -> None:
        self.skew = timedelta(minutes=minutes)

    @rule(minutes=st.sampled_from([1, 30, 24 * 60]))
    def time_passes(self, minutes: int) -> None:
        self.time += timedelta(minutes=minutes)

    @rule(data=st.data())
    @precondition(lambda self: not self.registry.down)
    def somebody_sets_another_alias(self, data: Any) -> None:
        number = data.draw(st.sampled_from(self.versions))
        MemoryPromotion.set_alias(self.registry, NAME, data.draw(st.sampled_from(["Staging", "LastGood"])), number)

    @rule(data=st.data())
    @precondition(lambda self: not self.registry.down)
    def a_person_quarantines_a_version(self, data: Any) -> None:
        moves.quarantine(self.hands, data.draw(st.sampled_from(self.versions)), why="?", now=self._now())

    @rule(data=st.data())
    @precondition(lambda self: not self.registry.down)
    def a_person_takes_a_verdict_back(self, data: Any) -> None:
        number = data.draw(st.sampled_from(self.versions))
        with contextlib.suppress(UserError):
            second_chances.rejudge(self.hands, [number], why="?", now=self._now())
        with contextlib.suppress(UserError):
            second_chances.unquarantine(self.hands, number, why="?", now=self._now())

    @rule(server=st.sampled_from(["box", "gone", "other"]))
    @precondition(lambda self: not self.registry.down)
    def a_person_forgets_a_server(self, server: str) -> None:
        with contextlib.suppress(UserError):
            second_chances.forget(self.hands, server, why="?", now=self._now())
            refused = contract.refused_tag(server)
            assert not any(refused in one.tags for one in self.registry._models[NAME].versions.values())

    @rule()
    def a_server_falls_silent(self) -> None:
        """I10."""
        if self.registry.down:
            return
        self._pass()
        before = self.production
        old = '{"serving": 1, "seen": "2020-01-01T00:00:00+00:00", "url": "http://gone"}'
        self.registry.set_model_tag(NAME, contract.server_tag("box"), old)
        self._pass()
        assert self.production == before

    @rule(data=st.data())
    def a_version_is_deleted(self, data: Any) -> None:
        number = data.draw(st.sampled_from(self.versions))
        if len(self.versions) > 1 and number != self.production:
            # An alias that went before its version, unseen, looks as one that went with it.
            if self.persons == (None,) and number == self._last_committed():
                self.persons = None
            self.registry.delete_version(NAME, number)

    @rule()
    @precondition(lambda self: self.production is not None and len(self.versions) > 1)
    def what_is_in_production_is_deleted(self) -> None:
        if self.persons == (self.production,):
            self.persons = None
        self.registry.delete_version(NAME, self.production or 0)

    def _moves(self) -> list[ledger.Entry]:
        """Committed moves, newest first, in the order in which they were written."""
        return [entry for entry in map(ledger.from_run, reversed(self.registry.records)) if entry.is_move]

    def _last_committed(self) -> int | None:
        return next((entry.target for entry in self._moves()), None)

    def _last_choice(self) -> int | None:
        return next((e.target for e in self._moves() if e.kind == ledger.PROMOTE and e.is_automatic), None)

    def _is_held(self) -> bool:
        return contract.TAG_HOLD in self.registry._models[NAME].tags

    @invariant()
    def a_persons_move_stands(self) -> None:
        """I3."""
        if getattr(self, "persons", None) is not None:
            assert (self.production,) == self.persons

    @invariant()
    def no_decision_is_committed_twice(self) -> None:
        """I5: two commits of the promoter in a row never name the same target."""
        if not hasattr(self, "registry"):
            return
        moved = [entry for entry in map(ledger.from_run, self.registry.records) if entry.is_move]
        for one, two in itertools.pairwise(moved):
            assert one.target != two.target or not (one.is_automatic and two.is_automatic)

    @invariant()
    def nobody_is_said_to_have_moved_it_who_did_not(self) -> None:
        if hasattr(self, "registry"):
            seen = [entry for entry in map(ledger.from_run, self.registry.records) if entry.by == ledger.PERSON]
            assert len(seen) <= self.num_moves_by_hand

    def teardown(self) -> None:
        """In the end, with nothing in the way, every version has a verdict and a reason (I9), and a good one serves."""
        if not hasattr(self, "registry"):
            return
        self.registry.down, self.registry.calls_left, self.bench.is_full = False, None, False
        self.time += timedelta(hours=1)  # a command that was killed is not taken for one that still runs
        self._pass()
        for key in (contract.TAG_HOLD, contract.TAG_FREEZE):
            self.registry.set_model_tag(NAME, key, None)
        if self.promoter.look().is_removed:  # only a person may end that
            MemoryPromotion.set_alias(self.registry, NAME, PRODUCTION, self.versions[0])
            self.num_moves_by_hand += 1
            self._pass()
            self.registry.set_model_tag(NAME, contract.TAG_HOLD, None)
        self.persons = None
        for _ in range(4 * MAX_FAULTS):
            self._pass()
            if not self.promoter.look().unjudged:
                break
            self.time += timedelta(hours=1)
        for number, version in self.registry._models[NAME].versions.items():
            assert contract.TAG_REASON in version.tags, f"I9: version {number} has no verdict"
        in_production = self.promoter.look().incumbent
        assert in_production is None or is_judged(in_production, PRODUCTION), "I9: what is in production has no verdict"
        self._check_the_end()

    def _check_the_end(self) -> None:
        """With a good model waiting and nothing held, it is judged: none waits but where the test set fails on all."""
        seen = self.promoter.look()
        waiting = [version.version for version in seen.unjudged if version.version != seen.production]
        others = [version for version in waiting if not self.bench.faults.get(version)]
        assert not others, f"versions {others} wait for ever"
        able = [one.version for one in self.registry._models[NAME].versions.values() if self._is_able(one)]
        assert seen.has_a_bar or not able, f"nothing serves, and versions {able} could"

    def _is_able(self, version: ModelVersion) -> bool:
        """Whether nothing is known against it."""
        seen = self.promoter.look()
        admitted = version.tags.get(contract.TAG_STATE) == contract.STATE_ADMITTED
        return admitted and not seen.refused(version) and not seen.is_barred(version)


TestHistories = History.TestCase
TestHistories.pytestmark = [pytest.mark.timeout(900)]  # it is one test to pytest, and thousands of histories
TestHistories.settings = settings(
    max_examples=NUM_HISTORIES,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="RELAY_TEST_HISTORIES" not in os.environ,
    database=None,
)
