"""Scores in MLflow: metrics and test set at a version's run, as `mlflow.log_metrics` and `mlflow.log_input` do it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from registry_hooks import contract
from registry_hooks.errors import UnknownModelError, UserError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_runs import MAX_RUN_TAG_CHARS, log_batch, metric_entries, quoted
from registry_hooks.records import ModelVersion, ScoreEntry

# What MLflow's tables hold.
_MAX_DATASET_NAME_CHARS = 500
_MAX_DATASET_DIGEST_CHARS = 36
_MAX_SOURCE_CHARS = 4000
_PAGE_SIZE = 200
# The tag by which MLflow's pages say what a dataset was for.
_CONTEXT = "mlflow.data.context"


class MlflowScores:
    """`ScoreBook` on the MLflow server of `registry`."""

    def __init__(self, registry: MlflowRegistry) -> None:
        self._registry = registry
        self._rest = registry.rest

    def artifact_root(self, version: ModelVersion) -> str:
        """Where files of the version's run lie (no slash at the end)."""
        return str(self._run(version)["info"]["artifact_uri"]).rstrip("/")

    def record_scores(self, version: ModelVersion, entry: ScoreEntry, metrics: Mapping[str, float]) -> None:
        """Metrics and test set at the version's run and LoggedModel, the entry last; replaces that of the same set."""
        if not all(math.isfinite(value) for value in metrics.values()):
            raise ValueError(f"metrics of {version.label} are not finite: nothing was written")
        run_id = _run_id(version)
        dataset = _dataset(entry)
        entries = metric_entries(metrics, at=datetime.now(UTC), step=version.step or 0, model_id=version.model_id)
        shown_at = {"dataset_name": dataset["name"], "dataset_digest": dataset["digest"]}
        self._rest.post(
            "/runs/log-inputs",
            run_id=run_id,
            datasets=[{"dataset": dataset, "tags": [{"key": _CONTEXT, "value": "eval"}]}],
        )
        log_batch(self._rest, run_id, metrics=[{**one, **shown_at} for one in entries], params={})
        value = json.dumps(dataclasses.asdict(entry) | {"test_set_source": entry.test_set_source[:_MAX_SOURCE_CHARS]})
        self._rest.post(
            "/runs/set-tag",
            run_id=run_id,
            key=contract.evaluation_tag(entry.test_set_digest),
            value=value[:MAX_RUN_TAG_CHARS],
        )

    def score_entries(self, version: ModelVersion) -> Sequence[ScoreEntry]:
        """What the version was scored on, sorted by digest; empty when it never was, or its run is gone."""
        if version.run_id is None:
            return ()
        try:
            tags = self._run(version)["data"].get("tags", ())
        except UnknownModelError:  # the run is gone, and its scores with it
            return ()
        ours = sorted(tag["key"] for tag in tags if tag["key"].startswith(contract.TAG_EVALUATION_PREFIX))
        values = {tag["key"]: tag.get("value", "") for tag in tags}
        return tuple(entry for key in ours if (entry := _entry(values[key])) is not None)

    def newest_versions(self, name: str, limit: int) -> Sequence[ModelVersion]:
        """The versions of a registered model with the highest numbers, highest first; empty when it has none."""
        found: list[ModelVersion] = []
        page = ""
        while len(found) < limit:
            params = {"filter": f"name = {quoted(name)}", "order_by": "version_number DESC"}
            size = str(min(limit - len(found), _PAGE_SIZE))
            more = {"page_token": page} if page else {}
            answer = self._rest.get("/model-versions/search", max_results=size, **params, **more)
            found += [self._registry.version_of(one) for one in answer.get("model_versions", ())]
            page = answer.get("next_page_token", "")
            if not page:
                break
        return tuple(found)

    def _run(self, version: ModelVersion) -> Mapping[str, Any]:
        run: Mapping[str, Any] = self._rest.get("/runs/get", run_id=_run_id(version))["run"]
        return run


def _run_id(version: ModelVersion) -> str:
    if version.run_id is None:
        raise UserError(
            f"{version.label} was registered without a run, to which scores would belong: nothing was recorded; "
            "publish the checkpoint with `relay publish`"
        )
    return version.run_id


def _dataset(entry: ScoreEntry) -> dict[str, str]:
    """The test set as MLflow keeps datasets: its name and digest say which it is, everything else is for people."""
    return {
        "name": entry.test_set[:_MAX_DATASET_NAME_CHARS],
        "digest": entry.test_set_digest[:_MAX_DATASET_DIGEST_CHARS],
        "source_type": "local",
        "source": json.dumps({"uri": entry.test_set_source[:_MAX_SOURCE_CHARS]}),
        "profile": json.dumps({"num_rows": entry.num_items}),
    }


def _entry(text: str) -> ScoreEntry | None:
    """The entry that a tag holds; None for what people wrote there."""
    try:
        found = json.loads(text)
        return ScoreEntry(**{field.name: found[field.name] for field in dataclasses.fields(ScoreEntry)})
    except (ValueError, KeyError, TypeError):
        return None
