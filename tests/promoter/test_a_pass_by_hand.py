"""`relay reconcile` beside a promoter with other settings: what decided last is not replaced by something weaker."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import test_set as test_sets
from pipeline.promotion import judging, ledger, machine_lock, moves, scheduling, wiring
from pipeline.promotion.ledger import Entry
from pipeline.promotion.policy import Policy
from pipeline.promotion.rule import Rule
from registry_hooks.settings import RegistrySettings, Settings, load

NAME = "model"
LINE = '{"id": "a", "prompt": "7 is", "answer": " odd"}\n'
POLICY = Policy().digest

Relay = Callable[..., tuple[int, str, str]]


class EndedError(Exception):
    """The promoter's start got as far as its schedule."""


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.jsonl"
    path.write_text(LINE)
    return path


@pytest.fixture
def by_test_set(held_out: Path) -> Rule:
    """The rule of a promoter that has the test set."""
    digest = test_sets.load(held_out).digest
    return Rule(policy=POLICY, test_set="held-out", test_set_digest=digest, test_set_source=str(held_out))


@pytest.fixture
def judged(wired: Any, by_test_set: Rule) -> Any:
    """Version 2 was promoted by the test set, and version 3 waits."""
    wired.promoter.rule = by_test_set
    for score in (1, 5):
        wired.publish(score=score)
        wired.promoter.reconcile()
    wired.publish(score=9)
    return wired


def test_what_is_printed_of_a_test_set_is_what_one_sample_shows_and_a_group_counts_once(
    wired: Any, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.jsonl"
    items = [
        {"id": str(n), "prompt": f"{n} is", "answer": " odd", "slice": "a" if n < 400 else "b", "group": f"g{n // 5}"}
        for n in range(450)
    ]
    pool.write_text("\n".join(map(json.dumps, items)))
    loaded = load(overrides={"evaluate": {"test_set": pool, "sample": 90}})

    with wiring.promoter_of(loaded) as (_, lines):
        assert lines[1].startswith("18 items, 1 candidate: ")
        assert "slices with fewer than 6 items can never show harm (b)" in lines[-1]


def test_a_pass_without_the_test_set_that_decided_last_compares_nothing(
    judged: Any, relay: Relay, held_out: Path
) -> None:
    before = judged.kinds()

    code, out, err = relay("reconcile")

    assert code == 2
    assert out.endswith(
        "version 3 admitted: published whole; it waits to be compared\n"
        "rests: it does not compare version 2, in production, with 3\n"
    )
    assert err.startswith(
        f"error: no versions of {NAME} were compared: the last automatic decision was by test set held-out ("
    )
    assert f"here it would be by eval_loss with policy {POLICY}, a weaker rule" in err
    assert f"Set evaluate.test_set (RELAY_EVALUATE__TEST_SET) to that test set, read from {held_out} then" in err
    assert "give --without-test-set, if eval_loss shall decide" in err
    assert err.count("\n") == 1
    assert (judged.kinds(), judged.production) == (before, 2)


def test_such_a_pass_still_writes_down_what_a_person_did(judged: Any, relay: Relay) -> None:
    judged.person_moves(1)

    code, out, _ = relay("reconcile")

    assert (code, judged.production, judged.kinds()[-1]) == (0, 1, "manual 1")
    assert "rests: " in out


def test_who_asks_for_the_metric_gets_it_for_one_pass(judged: Any, relay: Relay, held_out: Path) -> None:
    code, _, err = relay("reconcile", "--without-test-set")
    told = dict(judged.registry.records[-1].params)
    judged.publish()
    again, *_ = relay("reconcile")

    assert (code, again) == (0, 2)
    assert err.startswith("Warning: the last automatic decision was by test set held-out (")
    assert (told["kind"], told["score_metric"], told["asked_by"]) == ("keep", "eval_loss", moves.this_person())
    assert "test_set" not in told


def test_asking_for_the_metric_counts_more_than_the_settings(
    judged: Any, relay: Relay, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_EVALUATE__TEST_SET", str(held_out))
    code, *_ = relay("reconcile", "--without-test-set")
    both, _, err = relay("reconcile", "--without-test-set", "--test-set", str(held_out))

    assert (code, both) == (0, 2)
    assert judged.registry.records[-1].params["score_metric"] == "eval_loss"
    assert "contradict each other, so nothing was done" in err


def test_a_dry_run_warns_in_place_of_the_refusal(judged: Any, relay: Relay) -> None:
    code, out, err = relay("reconcile", "--dry-run")

    assert (code, out) == (0, "next: version 3 admitted: published whole; it waits to be compared\n")
    assert err.startswith("Warning: the last automatic decision was by test set")


@pytest.mark.parametrize("other", ["test set", "policy"])
def test_another_test_set_or_policy_is_one_line_of_warning(
    settled: Any, relay: Relay, held_out: Path, by_test_set: Rule, other: str
) -> None:
    last = {"test_set_digest": "b" * 64} if other == "test set" else {"policy": "c" * 16}
    settled.registry.record_run(ledger.to_run(NAME, Entry(kind="keep", because="", rule=replace(by_test_set, **last))))

    code, out, err = relay("reconcile", "--test-set", str(held_out))

    assert (code, out) == (0, "rests: nothing new\n")
    assert err.startswith("Warning: the last automatic decision was by test set held-out (")
    assert f"; here it would be by test set held-out ({by_test_set.test_set_digest[:12]}) with policy {POLICY}\n" in err
    assert err.count("\n") == 1


def test_the_same_test_set_in_another_file_is_the_same_rule(
    settled: Any, relay: Relay, tmp_path: Path, by_test_set: Rule
) -> None:
    settled.registry.record_run(ledger.to_run(NAME, Entry(kind="keep", because="", rule=by_test_set)))
    copy = tmp_path / "copy.jsonl"
    copy.write_text(LINE)

    assert relay("reconcile", "--test-set", str(copy)) == (0, "rests: nothing new\n", "")


def test_without_any_decision_yet_nothing_is_refused(wired: Any, relay: Relay) -> None:
    wired.publish()
    first = relay("reconcile")
    wired.publish()
    second = relay("reconcile")

    assert [(code, err) for code, _, err in (first, second)] == [(0, ""), (0, "")]
    assert wired.registry.records[-1].params["score_metric"] == "eval_loss"


def test_what_a_person_did_since_is_passed_over(judged: Any, relay: Relay) -> None:
    judged.person_moves(1)
    judged.promoter.reconcile()
    moves.freeze(judged.hands, why="release week", now=judged.now())
    by_ada = Entry(
        kind=ledger.MANUAL, because="by a script", target=1, by="ada@box", rule=Rule(score_metric="eval_loss")
    )
    judged.registry.record_run(ledger.to_run(NAME, by_ada))

    moves.release(judged.hands, why="", now=judged.now())
    code, out, err = relay("reconcile")

    assert (code, "were compared" in err) == (2, True), out


def test_where_the_metric_decided_last_it_may_again(judged: Any, relay: Relay) -> None:
    judged.promoter.rule = Rule(policy=POLICY, score_metric="eval_loss")
    judged.promoter.reconcile()

    assert relay("reconcile") == (0, "rests: nothing new\n", "")


def test_what_was_decided_while_a_pass_waited_counts(
    settled: Any, relay: Relay, by_test_set: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.publish()

    tries = []
    try_lock = machine_lock.try_lock

    def end_of_the_promoters_pass(name: str) -> Any:
        tries.append(name)
        if len(tries) == 1:
            settled.registry.record_run(ledger.to_run(NAME, Entry(kind="keep", because="", rule=by_test_set)))
            return None
        return try_lock(name)

    monkeypatch.setattr(machine_lock, "try_lock", end_of_the_promoters_pass)
    code, out, _ = relay("reconcile")

    assert (code, "this one waits" in out) == (2, True)


def test_it_costs_one_look_at_the_runs_by_hand_and_none_in_the_promoters_passes(
    settled: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = settled.registry.latest_runs
    monkeypatch.setattr(settled.registry, "latest_runs", lambda name, limit: looks.append(limit) or look(name, limit))
    settled.promoter.reconcile()
    of_the_promoter = len(looks)
    relay("reconcile")

    assert (of_the_promoter, len(looks) - of_the_promoter) == (0, 1)


@pytest.mark.parametrize("is_away", [False, True])
def test_a_promoter_without_the_test_set_that_decided_last_says_so_at_its_start(
    judged: Any, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    def ended() -> None:
        raise EndedError

    monkeypatch.setattr(scheduling, "_scheduler", ended)
    monkeypatch.setattr(scheduling.signal, "signal", lambda *_: None)
    judged.registry.down = is_away
    said: list[str] = []

    with pytest.raises(EndedError):
        scheduling.run(Settings(registry=RegistrySettings(name=NAME)), say=said.append)

    begins = (
        "by what rule the last decision was made cannot" if is_away else "the last automatic decision was by test set"
    )
    assert said[1].startswith("no test set (evaluate.test_set): eval_loss decides")
    assert said[2].startswith(f"Warning: {begins}")


def test_a_pass_that_ends_in_an_error_is_told_by_the_exit_code(
    settled: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, *_ = relay("reconcile")
    settled.table.broken = "the engine hung"
    monkeypatch.setattr(judging, "MetricJudge", lambda **_: settled.table)
    settled.publish()

    code, out, _ = relay("reconcile")

    assert (well, code) == (0, 1)
    assert "rests: error: the engine hung" in out


def test_records_are_told_to_programs_and_a_model_that_is_not_there_is_the_users_to_mend(
    settled: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, history, _ = relay("history", "--json")
    _, why, _ = relay("why", "2", "--json")
    told = [json.loads(line) for line in history.splitlines()]
    settled.registry._models.clear()
    code, _, err = relay("history")

    assert [(one["kind"], one["from"], one["to"], one["alias"]) for one in told] == [
        ("promote", 1, 2, "Production"),
        ("promote", None, 1, "Production"),
    ]
    assert (json.loads(why)["aliases"], json.loads(why)["entries"][0]["kind"]) == (
        ["Candidate", "Production"],
        "promote",
    )
    assert (code, "no registered model" in err) == (2, True)
