"""Whose refusal counts, what an error says of a version, and which number is a version's own."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.promotion import refusing
from pipeline.promotion.blaming import Fault, fault_of
from pipeline.promotion.trained import is_not_finite, trained
from registry_hooks import contract
from registry_hooks.errors import (
    AccessDeniedError,
    EvaluationError,
    NotACheckpointError,
    ObjectMissingError,
    RelayError,
    StoreError,
    StoreUnavailableError,
    UnknownModelError,
    UserError,
)
from registry_hooks.records import ModelVersion, RunRecord

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DIGEST = "d" * 64


def version_of(**tags: str) -> ModelVersion:
    all_tags = {contract.TAG_MANIFEST: DIGEST, contract.TAG_STEP: "100", **tags}
    return ModelVersion(name="m", version=3, run_id="r", model_id=None, artifact_uri="s3://b/x", tags=all_tags)


def refused_by(*servers: str) -> ModelVersion:
    return version_of(**{contract.refused_tag(server): "no" for server in servers})


def beat(**facts: Any) -> str:
    return json.dumps({"serving": 3, "digest": DIGEST[:12], "seen": (NOW - timedelta(seconds=9)).isoformat()} | facts)


def counted(version: ModelVersion, **heartbeats: str) -> list[str]:
    return sorted(refusing.counted(version, refusing.servers(heartbeats, now=NOW), silent_after_s=120))


def test_the_word_of_a_server_counts_also_when_it_fell_silent_over_it_or_never_reported() -> None:
    silent = beat(seen=(NOW - timedelta(hours=1)).isoformat(), serving=2, digest="e" * 12)

    assert counted(refused_by("a", "b"), a=silent) == ["a", "b"]


@pytest.mark.parametrize(
    "heartbeat", [beat(stopped=True), beat(seen=(NOW - timedelta(days=2)).isoformat()), "nonsense", "[1]"]
)
def test_the_word_of_a_server_that_is_gone_does_not_count(heartbeat: str) -> None:
    assert counted(refused_by("a"), a=heartbeat) == []


@pytest.mark.parametrize("other", [beat(), beat(digest=None), beat(seen="2026-01-01T23:59:59")])
def test_while_a_live_server_serves_the_same_files_no_refusal_counts(other: str) -> None:
    assert counted(refused_by("a", "b"), c=other) == []


@pytest.mark.parametrize(
    "other",
    [
        beat(serving=None),
        beat(digest="e" * 12),
        beat(serving=2, digest=None),
        beat(stopped=True),
        beat(seen=(NOW - timedelta(minutes=9)).isoformat()),
    ],
)
def test_a_server_that_serves_other_files_or_is_silent_is_no_witness(other: str) -> None:
    assert counted(refused_by("a"), c=other) == ["a"]


def test_what_a_server_declines_is_told_and_never_counted() -> None:
    version = version_of(**{contract.declined_tag("a"): "too long"})

    assert refusing.declined(version) == {"a": "too long"}
    assert counted(version) == []


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (EvaluationError("?", stage="room", transient=True), Fault.MOMENT),
        (EvaluationError("?", stage="deadline", transient=True), Fault.UNSURE),
        (EvaluationError("?", stage="asking"), Fault.VERSION),
        (UnknownModelError("its run is gone", what="run"), Fault.GONE),
        (UserError("it has no run"), Fault.GONE),
        (NotACheckpointError("?"), Fault.VERSION),
        (StoreUnavailableError("?"), Fault.MOMENT),
        (AccessDeniedError("?"), Fault.MOMENT),
        (ObjectMissingError("?"), Fault.UNSURE),
        (StoreError("?"), Fault.UNSURE),
    ],
)
def test_what_an_error_says_of_a_version(error: RelayError, fault: Fault) -> None:
    assert fault_of(error) == fault


def run_of(value: float | None = 1.5, **params: str) -> RunRecord:
    metrics = {} if value is None else {"eval_loss": value}
    tags = {"mlflow.parentRunId": "training"}
    return RunRecord(experiment="e", run_name="r", params=params, metrics=metrics, tags=tags)


def test_a_metric_that_was_measured_at_the_versions_own_step_is_its_own() -> None:
    found = trained(version_of(), run_of(eval_step="100"), "eval_loss")

    assert (found.value, found.fault, found.training) == (1.5, "", "training")
    assert trained(version_of(), run_of(), "eval_loss").value == 1.5


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (None, "run is gone, and with it its eval_loss"),
        (run_of(None), "eval_loss is missing"),
        (run_of(math.nan), "eval_loss is not a finite number"),
        (
            run_of(eval_step="50"),
            "eval_loss is that of step 50, the last evaluation before it was saved, and not its own",
        ),
    ],
)
def test_what_is_no_number_of_its_own_says_why(run: RunRecord | None, fault: str) -> None:
    found = trained(version_of(**{contract.TAG_CONFIG_HASH: "c"}), run, "eval_loss")

    assert (found.value, found.fault) == (None, fault)
    assert found.training == ("c" if run is None else "training")


def test_another_metric_than_that_of_an_evaluation_has_no_step_of_its_own() -> None:
    run = RunRecord(experiment="e", run_name="r", params={"eval_step": "50"}, metrics={"loss": 2.0}, tags={})

    assert trained(version_of(), run, "loss").value == 2.0


def test_only_the_metric_that_decides_has_to_be_finite() -> None:
    version = version_of(**{contract.TAG_NONFINITE: "eval_rouge=nan, eval_loss_b=inf"})

    assert is_not_finite(version, "eval_rouge")
    assert not is_not_finite(version, "eval_loss")
    assert trained(version, run_of(), "eval_loss").value == 1.5
    assert trained(version, run_of(), "eval_rouge").fault == "eval_rouge is not a finite number"
