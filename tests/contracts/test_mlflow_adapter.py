"""What only the MLflow adapter meets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from registry_hooks.errors import DeletedExperimentError, UnknownModelError
from registry_hooks.records import RunRecord
from tests.contracts.registries import World, draft_of, publish


@pytest.mark.integration
def test_metrics_and_step_show_at_run_and_logged_model(mlflow: World, name: str) -> None:
    draft = draft_of(name, nonfinite={"eval_ppl": "nan"})
    place, _ = publish(mlflow, draft)
    rest = mlflow.registry.rest  # type: ignore[attr-defined]
    run = rest.get("/runs/get", run_id=place.run_id)["run"]
    parent = rest.get("/runs/get", run_id=place.parent_run_id)["run"]
    model = rest.get(f"/logged-models/{place.model_id}")["model"]
    run_tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    metrics = {metric["key"]: (metric["value"], metric["step"]) for metric in model["data"]["metrics"]}

    assert metrics == {"eval_loss": (1.25, 20), "eval_exact_match": (0.5, 20)}
    assert params == {"dtype": "float32", "step": "20"}
    assert run_tags["mlflow.parentRunId"] == place.parent_run_id
    assert run_tags["relay.nonfinite_metrics"] == "eval_ppl=nan"
    assert run["info"]["run_name"] == "sft/checkpoint-20"
    assert (run["info"]["status"], parent["info"]["status"]) == ("FINISHED", "FINISHED")
    assert [output["model_id"] for output in parent["outputs"]["model_outputs"]] == [place.model_id]
    assert model["info"]["status"] == "LOGGED_MODEL_READY"


@pytest.mark.integration
def test_long_values_are_cut_to_what_mlflow_takes(mlflow: World, name: str) -> None:
    publish(mlflow, draft_of(name, params={"long": "x" * 20_000}))
    mlflow.registry.set_version_tag(name, 1, "relay.reason", "y" * 200_000)
    mlflow.registry.set_model_tag(name, "relay.hold", "z" * 200_000)
    record = RunRecord(
        experiment=f"{name}/long",
        run_name="long",
        params={f"p{i}": "x" * 7000 for i in range(150)},
        metrics={f"m{i}": float(i) for i in range(1200)},
        tags={"t": "x" * 20_000},
    )
    run_id = mlflow.registry.record_run(record)

    assert len(mlflow.registry.get_version(name, 1).tags["relay.reason"]) == 5000
    assert len(mlflow.registry.model_tags(name)["relay.hold"]) == 5000
    assert len(mlflow.registry.run_metrics(run_id)) == 1200
    assert len(mlflow.registry.latest_runs(f"{name}/long", 1)[0].params) == 150


@pytest.mark.integration
def test_versions_that_others_made_are_resolved_to_their_storage(mlflow: World, name: str) -> None:
    rest = mlflow.registry.rest  # type: ignore[attr-defined]
    run_id = mlflow.registry.record_run(
        RunRecord(experiment=f"{name}/training", run_name="r", params={}, metrics={}, tags={})
    )
    root = rest.get("/runs/get", run_id=run_id)["run"]["info"]["artifact_uri"]
    rest.post("/registered-models/create", name=name)
    for source in ("s3://elsewhere/by/hand/", f"runs:/{run_id}/model"):
        rest.post("/model-versions/create", name=name, source=source, run_id=run_id)

    assert mlflow.registry.get_version(name, 1).artifact_uri == "s3://elsewhere/by/hand"
    assert mlflow.registry.get_version(name, 2).artifact_uri == f"{root}/model"
    assert mlflow.registry.get_version(name, 2).digest is None


@pytest.mark.integration
def test_the_server_tells_its_version_and_its_clock(mlflow: World) -> None:
    facts = mlflow.registry.rest.server_facts()  # type: ignore[attr-defined]

    assert facts.version.startswith("3.")
    assert facts.clock is not None
    assert abs(datetime.now(UTC) - facts.clock) < timedelta(seconds=30)


@pytest.mark.integration
def test_what_is_unknown_is_named(mlflow: World, name: str) -> None:
    with pytest.raises(UnknownModelError, match=name) as no_model:
        mlflow.registry.model_tags(name)
    mlflow.registry.rest.post("/registered-models/create", name=name)  # type: ignore[attr-defined]
    with pytest.raises(UnknownModelError) as no_version:
        mlflow.registry.get_version(name, 7)
    with pytest.raises(UnknownModelError) as no_run:
        mlflow.registry.run_metrics("0" * 32)

    assert [raised.value.what for raised in (no_model, no_version, no_run)] == ["model", "version", "run"]


@pytest.mark.integration
def test_a_deleted_experiment_is_named_with_how_to_restore_it_and_works_again_then(mlflow: World, name: str) -> None:
    rest = mlflow.registry.rest  # type: ignore[attr-defined]
    record = RunRecord(experiment=f"{name}/decisions", run_name="r", params={}, metrics={}, tags={})
    mlflow.registry.record_run(record)
    found = str(rest.get("/experiments/get-by-name", experiment_name=record.experiment)["experiment"]["experiment_id"])
    rest.post("/experiments/delete", experiment_id=found)
    with pytest.raises(DeletedExperimentError, match=f"restore --experiment-id {found}"):
        mlflow.registry.record_run(record)
    with pytest.raises(DeletedExperimentError, match=record.experiment):
        mlflow.registry.latest_runs(record.experiment, 5)
    rest.post("/experiments/restore", experiment_id=found)

    assert len(mlflow.registry.latest_runs(record.experiment, 5)) == 1


@pytest.mark.integration
def test_a_metric_of_several_versions_is_one_metric_with_steps(mlflow: World, name: str) -> None:
    series = {"difference": {3: 0.25, 12: -0.5}}
    record = RunRecord(experiment=f"{name}/d", run_name="r", params={}, metrics={"p": 0.5}, tags={}, series=series)
    run_id = mlflow.registry.record_run(record)
    rest = mlflow.registry.rest  # type: ignore[attr-defined]
    history = rest.get("/metrics/get-history", run_id=run_id, metric_key="difference")["metrics"]

    assert {int(entry["step"]): entry["value"] for entry in history} == series["difference"]
    assert set(mlflow.registry.run_metrics(run_id)) == {"p", "difference"}
