"""What happens in a random history by itself: checkpoints, passes, servers, clocks, and all that fails."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pipeline.promotion import ledger
from pipeline.promotion.acting import Hands
from pipeline.promotion.reconciling import Promoter
from registry_hooks import contract
from registry_hooks.errors import RelayError
from tests.promoter.history_world import PRODUCTION, Bench, Killed, Registry

NAME = "model"
# A move that was seen, one that was settled, a way back, a promotion, and the comparisons that follow from it.
MAX_DECISIONS = 8


class HistoryWithoutPeople(RuleBasedStateMachine):
    """One registered model, the promoter and the servers."""

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
