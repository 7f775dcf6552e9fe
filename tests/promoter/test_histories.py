"""Random histories of promoter, person, servers and a failing registry: the invariants hold after every step.

No pass goes in circles, or makes a decision that is void while nobody else acts. With a good model waiting and nothing
held, it is judged in the end.

I3 a person's move is never undone. I5 a decision is committed at most once. I6 a quarantined digest never returns by
itself. I9 every version ends with a verdict and a reason. I10 the silence of a server moves nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from pipeline.promotion import ledger, moves, second_chances
from pipeline.promotion.standing import is_judged
from pipeline.promotion.trying import MAX_FAULTS
from registry_hooks import contract
from registry_hooks.errors import RelayError, UserError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion
from tests.promoter.history import NAME, HistoryWithoutPeople
from tests.promoter.history_world import PRODUCTION, Killed

NUM_HISTORIES = int(os.environ.get("RELAY_TEST_HISTORIES", "2000"))


class History(HistoryWithoutPeople):
    """The same with people, and what must hold."""

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
