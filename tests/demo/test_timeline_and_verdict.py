"""The demo's sums: seconds between milestones, what counts as shown, and the link that it prints."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest

from pipeline.demo import tasks, verdict
from pipeline.demo.gateway_view import ServerState, is_refused, reload_of
from pipeline.demo.narrator import metrics_line
from pipeline.demo.timeline import MILESTONES, Passage, Reload
from pipeline.demo.verdict import Answers, Usage
from pipeline.mlflow_pages import compare_link, version_link
from registry_hooks.settings import RegistrySettings, Settings

SAVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
QUESTIONS = tasks.questions()
RIGHT = tuple(one.answer for one in QUESTIONS)
USAGE = Usage(num_sent=30, num_failed=0, num_unanswered=0, num_whole={1: 10, 2: 20})


def after(seconds: float) -> datetime:
    return SAVED + timedelta(seconds=seconds)


def passage() -> Passage:
    stage_s = {"fetch": 0.5, "verify": 0.25, "start": 1.0, "golden": 0.5, "warm": 0.25, "flip": 0.0}
    reload = Reload(started_at=after(6.5), ended_at=after(9.25), stage_s=stage_s)
    return Passage(version=1, step=100, saved_at=SAVED, published_at=after(5), moved_at=after(6), reload=reload)


def shortcomings(usage: Usage = USAGE, *, first: tuple[str, ...] = ("",) * 4, last: tuple[str, ...] = RIGHT) -> str:
    return "; ".join(
        verdict.shortcomings(
            usage,
            versions=[1, 2],
            questions=QUESTIONS,
            first=Answers(version=1, texts=first),
            last=Answers(version=2, texts=last),
        )
    )


def test_each_milestone_is_counted_from_the_one_before() -> None:
    seconds = dict(zip(MILESTONES[1:], passage().seconds, strict=True))

    assert seconds == {
        "published": 5.0,
        "alias moved": 1.0,
        "fetched": 1.0,  # half a second of which until the server noticed
        "verified": 0.25,
        "started": 1.0,
        "served": 1.0,  # golden answers, warm-up and flip
    }


def test_the_seconds_add_up_to_the_whole_way() -> None:
    one = passage()

    assert sum(one.seconds) == one.saved_to_served_s == 9.25
    assert one.moved_to_served_s == 3.25


def test_a_stage_that_did_not_run_takes_no_time() -> None:
    warm = replace(passage(), reload=Reload(started_at=after(7), ended_at=after(7.5), stage_s={"flip": 0.5}))

    assert warm.seconds == (5.0, 1.0, 1.0, 0.0, 0.0, 0.5)


def test_a_demo_that_showed_everything_has_no_shortcoming() -> None:
    assert shortcomings() == ""


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (replace(USAGE, num_failed=1), "1 of 30 requests failed"),
        (replace(USAGE, num_unanswered=2), "2 of 30 requests were never answered"),
        (replace(USAGE, num_whole={1: 30}), "no stream came from version 2"),
    ],
)
def test_a_lost_request_or_a_version_without_a_stream_is_a_shortcoming(usage: Usage, sentence: str) -> None:
    assert shortcomings(usage) == sentence


@pytest.mark.parametrize("first", [RIGHT, (*RIGHT[:2], "?", "?")])
def test_a_last_version_that_answers_no_better_is_a_shortcoming(first: tuple[str, ...]) -> None:
    last = (*RIGHT[:2], "?", "?")

    assert "training went wrong" in shortcomings(first=first, last=last)


def test_surrounding_space_does_not_make_an_answer_wrong() -> None:
    answers = Answers(version=1, texts=tuple(f" {text}\n" for text in RIGHT))

    assert answers.num_right(QUESTIONS) == 4


def server_state(**changes: object) -> ServerState:
    last = {"version": 2, "outcome": "served", "reason": "", "started_at": SAVED, "ended_at": SAVED, "seconds": {}}
    return ServerState.model_validate({"version": 2, "reason": "", "last_reload": {**last, **changes}})


def test_a_version_is_in_service_when_the_server_and_its_last_reload_name_it() -> None:
    served = server_state()

    assert reload_of(served, 2) is not None
    assert reload_of(served, 1) is None
    assert reload_of(server_state(ended_at=None), 2) is None
    assert reload_of(served.model_copy(update={"version": 1}), 2) is None


def test_a_refused_version_is_told_from_one_that_is_tried_again() -> None:
    assert is_refused(server_state(outcome="refused"), 2)
    assert not is_refused(server_state(outcome="failed"), 2)
    assert not is_refused(server_state(outcome="refused"), 1)


def test_links_carry_the_name_that_people_know_mlflow_by_and_quote_that_of_the_model() -> None:
    here = Settings(registry=RegistrySettings(tracking_uri="http://127.0.0.1:5000"))
    there = Settings(
        registry=RegistrySettings(tracking_uri=here.tracking_uri, public_url="https://mlflow.example.com/")
    )

    assert (here.mlflow_url, there.mlflow_url) == ("http://127.0.0.1:5000", "https://mlflow.example.com")
    assert version_link(there.mlflow_url, "my model #2", 3) == (
        "https://mlflow.example.com/#/models/my%20model%20%232/versions/3?workflowType=machine_learning"
    )


def test_the_compare_link_maps_versions_to_runs_and_asks_for_the_mode_with_metrics() -> None:
    link = compare_link("http://127.0.0.1:5000", "relay-demo", {"1": "aa", "2": "bb"})
    page, _, query = link.partition("?")
    asked = parse_qs(query)

    assert page == "http://127.0.0.1:5000/#/compare-model-versions"
    assert json.loads(asked["name"][0]) == "relay-demo"
    assert json.loads(asked["runs"][0]) == {"1": "aa", "2": "bb"}
    assert asked["workflowType"] == ["machine_learning"]


def test_metrics_are_told_per_slice() -> None:
    metrics = {"eval_exact_match": 0.5, "eval_exact_match_copy": 1.0, "eval_loss": 0.1}

    assert metrics_line(metrics) == "exact match 50% (copy 100%, reverse 0%, max 0%, add 0%)"
