"""Random histories of promoter, person, servers and a failing registry: the invariants hold after every step.

I3 a person's move is never undone. I5 a decision is committed at most once. I6 a quarantined digest never returns by
itself. I9 every version ends with a verdict and a reason. I10 the silence of a server moves nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.promotion import ledger, moves
from pipeline.promotion.acting import Hands, Judgement
from pipeline.promotion.reconciling import Promoter
from registry_hooks import contract
from registry_hooks.errors import RelayError, UserError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion

NAME, PRODUCTION = "model", contract.ALIAS_PRODUCTION
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


class TableJudge:
    """Promotes the candidate with the highest score, if that beats the incumbent's by one."""

    def __init__(self) -> None:
        self.scores: dict[int, int] = {}

    def judge(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> Judgement:
        numbers = [candidate.version for candidate in candidates]
        best = max(numbers, key=lambda number: self.scores[number])
        stories = dict.fromkeys(numbers, ("a story", "a reason"))
        if self.scores[best] > self.scores[incumbent.version]:
            return Judgement(kind="promote", because=f"{best} is better", winner=best, stories=stories)
        return Judgement(kind="keep", because="none is better", stories=stories)


class History(RuleBasedStateMachine):
    """One registered model and all who touch it."""

    @initialize()
    def begin(self) -> None:
        self.registry, self.table = Registry(), TableJudge()
        self.persons: tuple[int | None] | None = None
        self.num_published = self.num_moves_by_hand = 0
        self._start_promoter()
        self._publish(0, None)
        self._pass()

    def _start_promoter(self) -> None:
        self.hands = Hands(registry=self.registry, book=self.registry, name=NAME, alias=PRODUCTION)
        self.promoter = Promoter(hands=self.hands, judge=self.table, clock=self._now)

    def _now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def _publish(self, score: int, twin_of: int | None) -> None:
        self.num_published += 1
        digest = f"{twin_of or self.num_published:064x}"
        version = self.registry.add_version(NAME, artifact_uri="s3://b/x", tags={contract.TAG_MANIFEST: digest})
        self.table.scores[version.version] = score

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
        with contextlib.suppress(RelayError):
            self.promoter.reconcile()
        for target in self.registry.automatic_targets[before:]:
            assert dict(self._numbers())[target] not in barred, "I6: a quarantined digest came back by itself"

    def _digests(self) -> list[tuple[str | None, Any]]:
        return [(version.digest, version) for version in self.registry._models[NAME].versions.values()]

    def _numbers(self) -> list[tuple[int | None, str | None]]:
        return [(number, version.digest) for number, version in self.registry._models[NAME].versions.items()]

    @rule(score=st.integers(0, 5))
    def a_checkpoint_is_published(self, score: int) -> None:
        self._publish(score, None)

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
        MemoryPromotion.set_alias(self.registry, NAME, PRODUCTION, target)
        self.num_moves_by_hand += 1
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

    @rule(data=st.data())
    def a_server_refuses_a_version(self, data: Any) -> None:
        if not self.registry.down:
            number = data.draw(st.sampled_from(self.versions))
            self.registry.set_version_tag(NAME, number, contract.refused_tag("box"), "no")

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
            self.registry.delete_version(NAME, number)

    def _last_committed(self) -> int | None:
        entries = [ledger.from_run(record) for record in reversed(self.registry.records)]
        return next((entry.target for entry in entries if entry.is_move), None)

    def _last_choice(self) -> int | None:
        entries = [ledger.from_run(record) for record in reversed(self.registry.records)]
        return next((e.target for e in entries if e.is_move and e.kind == ledger.PROMOTE and e.is_automatic), None)

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
        """I9: in the end, with nothing in the way, every version has a verdict and a reason."""
        if not hasattr(self, "registry"):
            return
        self.registry.down, self.registry.calls_left = False, None
        self._pass()
        for key in (contract.TAG_HOLD, contract.TAG_FREEZE):
            self.registry.set_model_tag(NAME, key, None)
        self._pass()
        for number, version in self.registry._models[NAME].versions.items():
            assert contract.TAG_REASON in version.tags, f"I9: version {number} has no verdict"


TestHistories = History.TestCase
TestHistories.settings = settings(
    max_examples=NUM_HISTORIES,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="RELAY_TEST_HISTORIES" not in os.environ,
    database=None,
)
