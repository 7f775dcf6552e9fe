"""Only the version's own fault is held against it; everything else is declined or tried again."""

from __future__ import annotations

import dataclasses

import pytest

from registry_hooks import errors
from registry_hooks.errors import Blame, EngineStartError, GoldenMismatchError, RelayError, StoreUnavailableError
from server.gateway.blaming import SEEN_AGAIN_S, Refusal, refuse
from tests.house.test_blame import BLAME

NOW = 1_000.0


@pytest.mark.parametrize("kind", BLAME, ids=lambda kind: kind.__name__)
def test_only_what_the_version_is_to_blame_for_is_a_refusal(kind: type[RelayError]) -> None:
    outcomes = {Blame.VERSION: "refused", Blame.POLICY: "declined"}
    error = kind.__new__(kind)
    first = refuse(error, "why", None, now_s=NOW)
    refusal = refuse(error, "why", first, now_s=NOW + SEEN_AGAIN_S) if error.may_heal else first

    assert refusal.outcome == outcomes.get(BLAME[kind], "failed")
    assert (refusal.retry_at_s is None) == (refusal.outcome != "failed")


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files"), KeyError("x")])
def test_what_is_no_error_of_ours_is_this_boxs_and_tried_again(error: Exception) -> None:
    assert refuse(error, "why", None, now_s=NOW) == Refusal(because="why", outcome="failed", retry_at_s=NOW + 5)


def test_an_engine_that_did_not_start_is_the_versions_fault_only_when_it_says_so() -> None:
    by_version = refuse(EngineStartError("NaN", stage="load", blame=Blame.VERSION), "", None, now_s=NOW)
    by_box = refuse(EngineStartError("killed", stage="load"), "", None, now_s=NOW)

    assert (by_version.outcome, by_box.outcome) == ("refused", "failed")
    assert EngineStartError("killed", stage="load").transient


def test_a_fault_that_may_pass_is_tried_later_each_time_for_ever() -> None:
    away = StoreUnavailableError("away")
    first = refuse(away, "away", None, now_s=NOW)
    second = refuse(away, "away", first, now_s=NOW)
    late = refuse(away, "away", dataclasses.replace(first, tries=5_000), now_s=NOW)

    assert [one.retry_at_s for one in (first, second, late)] == [NOW + 5, NOW + 10, NOW + 300]


def test_a_bad_version_is_refused_for_good() -> None:
    assert refuse(GoldenMismatchError("other answers"), "why", None, now_s=NOW).retry_at_s is None


def test_what_may_be_put_back_is_final_once_it_was_seen_missing_again_some_minutes_later() -> None:
    lost = errors.FileMissingError("gone")
    first = refuse(lost, "", None, now_s=NOW)
    soon = refuse(lost, "", first, now_s=NOW + 60)
    between = refuse(StoreUnavailableError("away"), "", soon, now_s=NOW + SEEN_AGAIN_S)
    late = refuse(lost, "", between, now_s=NOW + SEEN_AGAIN_S + 1)

    assert [one.outcome for one in (first, soon, between, late)] == ["failed", "failed", "failed", "refused"]
