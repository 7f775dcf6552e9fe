"""A version is fetched, scored and written down in a real MLflow, where people and other tools find the scores."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from mlflow import MlflowClient
from pyarrow import parquet

from pipeline.evaluation import evaluate_command, rank_command
from pipeline.evaluation import test_set as test_sets
from pipeline.evaluation.score_record import recorded
from pipeline.publishing import PublishOptions, publish
from pipeline.stack.local import LocalStack
from registry_hooks.errors import UnknownModelError
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_scores import MlflowScores
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings

pytestmark = pytest.mark.integration
NAME = "evaluated"
LINES = (
    {"id": "a", "prompt": "copy: abc\nanswer:", "answer": " abc", "slice": "copy"},
    {"id": "b", "prompt": "7 is", "choices": [" odd", " even"], "answer": 0, "slice": "odd numbers"},
    {"id": "c", "messages": [{"role": "user", "content": "say hi"}], "answer": "hi", "slice": "copy"},
)


class Silence:
    """A progress bar that nobody sees."""

    def begin(self, stage: str, total_bytes: int) -> None: ...

    def advance(self, stage: str, num_bytes: int) -> None: ...

    def end(self, stage: str, seconds: float) -> None: ...


@pytest.fixture(scope="module")
def settings(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    cache = tmp_path_factory.mktemp("cache")
    values: dict[str, Any] = {
        "registry": {"name": NAME, "tracking_uri": stack.tracking_uri, "timeout_s": 20, "write_timeout_s": 60},
        "engine": {"device": "cpu", "num_threads": 1},
        "serve": {"cache_dir": str(cache)},
    }
    with patch.dict(os.environ, stack.env):
        yield Settings.model_validate(values)


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Iterator[MlflowRegistry]:
    opened = MlflowRegistry(settings.tracking_uri, timeout_s=20, write_timeout_s=60)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def items_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "held-out.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def version(settings: Settings, registry: MlflowRegistry, tiny_checkpoint: Path, items_file: Path) -> ModelVersion:
    """A published version, after `relay evaluate @Production` and before anything else."""
    published = publish(
        tiny_checkpoint,
        catalog=MlflowCatalog(registry),
        writer=S3Store(settings.store, settings.s3_endpoint_url),
        settings=settings,
        options=PublishOptions(),
        progress=Silence(),
    ).version
    MlflowClient(settings.tracking_uri).set_registered_model_alias(NAME, "Production", str(published.version))
    assert evaluate_command.run(["@Production"], settings=settings, test_set=items_file) == 0
    return published


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.tracking_uri)


def test_the_metrics_stand_at_the_run_and_at_the_logged_model(version: ModelVersion, client: MlflowClient) -> None:
    metrics = client.get_run(version.run_id).data.metrics
    at_model = {metric.key: metric for metric in client.get_logged_model(version.model_id).metrics or ()}

    assert set(metrics) >= {
        "eval/exact_match",
        "eval/accuracy",
        "eval/loss",
        "eval/exact_match/copy",
        "eval/accuracy/odd numbers",
        "eval/loss/odd numbers",
        "eval_loss",
    }
    assert at_model["eval/loss"].value == metrics["eval/loss"]
    assert at_model["eval/loss"].dataset_name == "held-out"
    assert at_model["eval/loss"].step == 20


def test_the_test_set_is_a_dataset_of_the_run(version: ModelVersion, client: MlflowClient, items_file: Path) -> None:
    inputs = client.get_run(version.run_id).inputs.dataset_inputs
    digest = test_sets.load(items_file).digest

    assert [(one.dataset.name, one.dataset.digest) for one in inputs] == [("held-out", digest[:36])]
    assert [(tag.key, tag.value) for tag in inputs[0].tags] == [("mlflow.data.context", "eval")]


def test_the_items_are_an_artifact_of_the_run(
    version: ModelVersion, client: MlflowClient, items_file: Path, tmp_path: Path
) -> None:
    digest = test_sets.load(items_file).digest
    path = client.download_artifacts(version.run_id, f"evaluation/{digest[:12]}.parquet", str(tmp_path))
    table = parquet.read_table(io.BytesIO(Path(path).read_bytes()))

    assert table.column("item_id").to_pylist() == ["a", "b", "c"]
    assert client.get_run(version.run_id).data.tags[f"relay.evaluation.{digest[:12]}"]


def test_the_scores_come_back(
    version: ModelVersion, registry: MlflowRegistry, settings: Settings, items_file: Path, client: MlflowClient
) -> None:
    store = S3Store(settings.store, settings.s3_endpoint_url)
    found = recorded(version, test_sets.load(items_file).digest, book=MlflowScores(registry), reader=store)

    assert found is not None
    assert found.overall.loss == pytest.approx(client.get_run(version.run_id).data.metrics["eval/loss"])


def test_the_ranking_shows_the_version(
    version: ModelVersion, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank_command.run(settings=settings) == 0

    shown = capsys.readouterr().out
    assert "3 items" in shown
    assert "Production" in shown


def test_a_version_that_is_not_there_stops_before_anything_is_scored(
    version: ModelVersion, settings: Settings, items_file: Path
) -> None:
    for text in ("99", "Nobody"):
        with pytest.raises(UnknownModelError):
            evaluate_command.run([str(version.version), text], settings=settings, test_set=items_file)


def test_a_version_that_cannot_be_scored_is_named_and_the_exit_code_says_so(
    version: ModelVersion,
    settings: Settings,
    items_file: Path,
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = client.create_model_version(NAME, "s3://relay/nothing/here")

    assert evaluate_command.run([str(other.version)], settings=settings, test_set=items_file) == 1
    assert f"{NAME}/{other.version} was not scored" in capsys.readouterr().out
