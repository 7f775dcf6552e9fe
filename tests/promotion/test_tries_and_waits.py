"""When what could not be scored is tried again, and what people are told while a version waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.promotion import waiting
from pipeline.promotion.ledger import Entry, moment_after
from pipeline.promotion.trying import MAX_FAULTS, Trial, Trouble, after, is_due, read_trial, write_trial
from pipeline.promotion.waiting import Facts
from pipeline.promotion.way_back import way_back
from registry_hooks import contract
from registry_hooks.records import ModelVersion

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIED = Trouble(because="the engine died", is_counted=True)


def tried(number: int, trouble: Trouble = DIED) -> Trial:
    trial = None
    for _ in range(number):
        trial = after(trial, trouble, rule="r", now=NOW)
    assert trial is not None
    return trial


def test_waits_grow_up_to_an_hour_and_then_there_is_a_bound() -> None:
    waits = [(tried(number).next_at - NOW).total_seconds() for number in range(1, MAX_FAULTS + 1)]

    assert waits[:7] == [60, 120, 240, 480, 960, 1920, 3600]
    assert set(waits[6:]) == {3600}
    assert [tried(number).is_spent for number in (MAX_FAULTS - 1, MAX_FAULTS)] == [False, True]


def test_what_is_nobodys_fault_is_tried_for_as_long_as_it_takes() -> None:
    assert not tried(100, Trouble(because="the card is full", is_counted=False)).is_spent


def test_another_rule_or_another_incumbent_begins_anew() -> None:
    trial = tried(5)

    assert after(trial, DIED, rule="other", now=NOW).num_tries == 1
    assert after(trial, DIED, rule="r", now=NOW, about=7).num_tries == 1


def test_it_is_due_in_its_time_under_another_rule_and_when_a_person_asks() -> None:
    trial, later = tried(1), NOW + timedelta(seconds=61)

    assert is_due(None, rule="r", now=NOW)
    assert not is_due(trial, rule="r", now=NOW)
    assert is_due(trial, rule="r", now=later)
    assert is_due(trial, rule="other", now=NOW)
    assert is_due(trial, rule="r", now=NOW, known=[trial])
    assert not is_due(trial, rule="r", now=NOW, known=[tried(2)])


def test_a_clock_that_was_ahead_delays_nothing_by_more_than_the_longest_wait() -> None:
    ahead = after(None, DIED, rule="r", now=NOW + timedelta(days=900))

    assert is_due(ahead, rule="r", now=NOW)


def test_a_trial_comes_back_as_it_was_written_and_nonsense_is_none() -> None:
    trial = tried(2)

    assert read_trial(write_trial(trial)) == trial
    naive = write_trial(trial).replace("+00:00", "")
    assert read_trial(naive) == trial
    assert [read_trial(text) for text in (None, "", "[]", "{}", "later")] == [None] * 5


def version_of(**tags: str) -> ModelVersion:
    return ModelVersion(name="m", version=3, run_id="r", model_id=None, artifact_uri="", tags=tags)


FREE = Facts(alias="Production", production=1)
ADMITTED = {contract.TAG_STATE: "admitted"}


@pytest.mark.parametrize(
    ("tags", "facts", "reason"),
    [
        ({}, replace(FREE, hold="?"), "no promoter has looked at it yet"),
        (ADMITTED, replace(FREE, hold="Ada: wait", freeze="?", is_removed=True), "held: Ada: wait"),
        (ADMITTED, replace(FREE, freeze="?", is_removed=True), "Production was deleted by hand and stays so"),
        (ADMITTED, replace(FREE, freeze="release week", trial=tried(1)), "frozen: release week"),
        (
            {**ADMITTED, contract.TAG_TRIES: write_trial(tried(2))},
            replace(FREE, trial=tried(1, Trouble(because="the card is full", is_counted=False))),
            "the card is full (1 try; next not before 2026-01-01 00:01:00 UTC)",
        ),
        (
            {**ADMITTED, contract.TAG_TRIES: write_trial(tried(2))},
            FREE,
            "it could not be scored: the engine died (2 tries; next not before 2026-01-01 00:02:00 UTC)",
        ),
        (ADMITTED, FREE, "it is to be compared with version 1"),
        (ADMITTED, replace(FREE, production=None), "the others that wait: Production names nothing"),
    ],
)
def test_the_strongest_reason_to_wait_is_told(tags: dict[str, str], facts: Facts, reason: str) -> None:
    assert reason in waiting.why(version_of(**tags), facts)


def test_people_are_told_what_is_in_the_way_of_the_version_that_serves_now() -> None:
    trial = after(None, DIED, rule="r", now=NOW, about=1)
    tags = {contract.TAG_TRIES: write_trial(trial), contract.TAG_HOLD: "wait", contract.TAG_FREEZE: "cold"}

    def facts(production: int, now: datetime = NOW) -> Facts:
        return waiting.facts_for_people(tags, {"Production": production}, "Production", is_removed=True, now=now)

    assert facts(1) == Facts(alias="Production", production=1, hold="wait", freeze="cold", trial=trial)
    assert facts(2).trial is None
    assert facts(1, NOW + timedelta(hours=1)).trial is None
    gone = waiting.facts_for_people({}, {}, "Production", is_removed=True, now=NOW)
    assert gone == Facts(alias="Production", production=None, is_removed=True)


def test_an_entry_is_later_than_the_newest_whatever_the_clock_says() -> None:
    ahead = Entry(kind="hold", because="", at=NOW + timedelta(seconds=90))

    assert moment_after(None, NOW) == NOW
    assert moment_after(ahead, NOW) == NOW + timedelta(seconds=90, milliseconds=1)
    assert moment_after(ahead, NOW + timedelta(hours=1)) == NOW + timedelta(hours=1)


def moved(*targets: int | None) -> list[Entry]:
    """Moves in the order in which they were made, as they are read: newest first."""
    return [Entry(kind="promote", because="", target=target) for target in reversed(targets)]


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ((), []),
        ((1, 2, 3), [3, 2, 1]),
        ((1, 2, 3, 4, 3), [3, 2, 1]),
        ((1, 2, 3, 4, 3, 2), [2, 1]),
        ((1, 2, None), [2, 1]),
        ((1, 2, None, 5), [5, 2, 1]),
    ],
)
def test_who_goes_back_twice_is_two_steps_back(targets: tuple[int | None, ...], named: list[int]) -> None:
    assert way_back(moved(*targets)) == named


def test_what_the_alias_named_where_the_ledger_begins_is_on_the_way() -> None:
    assert way_back([Entry(kind="promote", because="", target=9, previous=4)]) == [9, 4]
