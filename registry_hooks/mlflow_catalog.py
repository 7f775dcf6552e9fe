"""The registry as the publisher sees it: a child run and a LoggedModel first, the model version last.

Why a run per checkpoint: the Compare page of MLflow reads only the runs of versions; versions of one run look alike.
Why a LoggedModel: it is what the Models tab and the charts show, and `models:/…` URIs resolve to it.
"""

from __future__ import annotations

import contextlib
import getpass
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from registry_hooks import contract
from registry_hooks.errors import UnknownModelError, UserError
from registry_hooks.mlflow_registry import MAX_REGISTRY_TAG_CHARS, MlflowRegistry
from registry_hooks.mlflow_rest import ALREADY_EXISTS
from registry_hooks.mlflow_runs import (
    MAX_PARAM_CHARS,
    MAX_RUN_TAG_CHARS,
    experiment_id,
    log_batch,
    metric_entries,
    milliseconds,
    pairs,
    quoted,
    renaming_tag,
)
from registry_hooks.records import CheckpointDraft, DraftPlace, ModelVersion

MODEL_TYPE = "hf-checkpoint"
_READY = "LOGGED_MODEL_READY"
_OPEN_STATES = ("LOGGED_MODEL_PENDING", _READY)
# Tags that MLflow's own pages read.
_PARENT_RUN, _VERSIONS = "mlflow.parentRunId", "mlflow.modelVersions"
_SOURCE_NAME, _SOURCE_TYPE, _SOURCE_COMMIT, _USER = (
    "mlflow.source.name",
    "mlflow.source.type",
    "mlflow.source.git.commit",
    "mlflow.user",
)


class MlflowCatalog:
    """`CheckpointCatalog` on the MLflow server of `registry`.

    Two publishers of the same files at the same moment share their child run and may, within milliseconds, both make
    a version: MLflow has no way to exclude that.

    Args:
        experiment: Where the training run goes when the user names none.
    """

    def __init__(self, registry: MlflowRegistry, *, experiment: str = "relay") -> None:
        self._registry = registry
        self._rest = registry.rest
        self._experiment = experiment

    def find_version(self, name: str, digest: str) -> ModelVersion | None:
        """The newest version whose manifest has that digest, if there is one."""
        answer = self._rest.get(
            "/model-versions/search",
            filter=f"name = {quoted(name)} AND {_tag_is(contract.TAG_MANIFEST, digest)}",
            max_results="1",
            order_by="version_number DESC",
        )
        found = answer.get("model_versions")
        return self._registry.located(found[0]) if found else None

    def open_draft(self, draft: CheckpointDraft) -> DraftPlace:
        """A child run and a LoggedModel for `draft`: those of an earlier try with the same digest, else new ones.

        Raises:
            UserError: `draft.parent_run_id` names no run that can be written.
        """
        experiment = self._parent_experiment(draft) or experiment_id(self._rest, self._experiment)
        return self._find_draft(draft, experiment) or self._new_draft(draft, experiment)

    def finish_draft(self, draft: CheckpointDraft, place: DraftPlace) -> None:
        """All files are in the store: log the metrics, mark the LoggedModel READY, end the child run.

        Writes the same things when it is called again.
        """
        lineage = draft.lineage
        finite = {key: value for key, value in draft.metrics.items() if math.isfinite(value)}
        renaming = renaming_tag([*finite, *draft.params])
        if renaming:
            self._rest.post("/runs/set-tag", run_id=place.run_id, key=contract.TAG_RENAMED, value=renaming)
        metrics = metric_entries(finite, at=lineage.saved_at, step=lineage.step, model_id=place.model_id)
        log_batch(self._rest, place.run_id, metrics=metrics, params={**draft.params, "step": str(lineage.step)})
        self._link_output(place.parent_run_id, place.model_id, lineage.step)
        self._link_output(place.run_id, place.model_id, lineage.step)
        self._rest.call(
            "PATCH", f"/logged-models/{place.model_id}", body={"model_id": place.model_id, "status": _READY}
        )
        self._end_run(place.run_id)

    def create_version(self, draft: CheckpointDraft, place: DraftPlace, tags: Mapping[str, str]) -> ModelVersion:
        """The model version, with all its tags at once; the one that is there already if there is one."""
        known = self.find_version(draft.name, draft.digest)
        if known is not None:
            return known
        self._rest.call(
            "POST",
            "/registered-models/create",
            body={"name": draft.name},
            absent=lambda code, message: code == ALREADY_EXISTS,
        )
        answer = self._rest.post(
            "/model-versions/create",
            name=draft.name,
            source=f"models:/{place.model_id}",
            run_id=place.run_id,
            model_id=place.model_id,
            tags=pairs(tags, MAX_REGISTRY_TAG_CHARS),
        )
        return self._registry.located(answer["model_version"])

    def _parent_experiment(self, draft: CheckpointDraft) -> str | None:
        if draft.parent_run_id is None:
            return None
        run = self._run(draft.parent_run_id)
        if run is None or run["info"].get("lifecycle_stage") == "deleted":
            raise UserError(
                f"MLflow has no run {draft.parent_run_id!r}, so nothing was published: pass --run-id of a training run "
                "that exists, or leave it out"
            )
        return str(run["info"]["experiment_id"])

    def _run(self, run_id: str) -> Mapping[str, Any] | None:
        try:
            run: Mapping[str, Any] = self._rest.get("/runs/get", run_id=run_id)["run"]
        except UnknownModelError:
            return None
        return run

    def _find_draft(self, draft: CheckpointDraft, experiment: str) -> DraftPlace | None:
        """The place that an earlier try left behind, unless it became a version or somebody deleted its run."""
        answer = self._rest.post(
            "/logged-models/search",
            experiment_ids=[experiment],
            filter=_tag_is(contract.TAG_MANIFEST, draft.digest),
            max_results=20,
        )
        for model in answer.get("models", ()):
            info = model["info"]
            tags = {tag["key"]: tag["value"] for tag in info.get("tags", ())}
            same = info.get("name") == _model_name(draft) and info.get("status") in _OPEN_STATES
            if not same or _VERSIONS in tags or not info.get("source_run_id"):
                continue
            parent = self._parent_of(info["source_run_id"])
            if parent is not None and draft.parent_run_id in (None, parent):
                return _place(info, parent)
        return None

    def _parent_of(self, run_id: str) -> str | None:
        run = self._run(run_id)
        if run is None or run["info"].get("lifecycle_stage") == "deleted":
            return None
        return next((tag["value"] for tag in run["data"].get("tags", ()) if tag["key"] == _PARENT_RUN), None)

    def _new_draft(self, draft: CheckpointDraft, experiment: str) -> DraftPlace:
        parent_id, parent_name = self._training_run(draft, experiment)
        lineage = draft.lineage
        tags = _source_tags() | {_PARENT_RUN: parent_id, contract.TAG_MANIFEST: draft.digest}
        if lineage.git_commit:
            tags[_SOURCE_COMMIT] = lineage.git_commit
        if draft.nonfinite:
            tags[contract.TAG_NONFINITE] = ", ".join(f"{key}={value}" for key, value in sorted(draft.nonfinite.items()))
        child = self._create_run(experiment, f"{parent_name}/{_model_name(draft)}", tags)
        answer = self._rest.post(
            "/logged-models",
            experiment_id=experiment,
            name=_model_name(draft),
            source_run_id=child,
            model_type=MODEL_TYPE,
            params=pairs({**draft.params, "step": str(lineage.step)}, MAX_PARAM_CHARS),
            tags=pairs({contract.TAG_MANIFEST: draft.digest}, MAX_RUN_TAG_CHARS),
        )
        return _place(answer["model"]["info"], parent_id)

    def _training_run(self, draft: CheckpointDraft, experiment: str) -> tuple[str, str]:
        """Id and name of the parent run: the user's, else the one of this training, made if need be."""
        if draft.parent_run_id is not None:
            run = self._run(draft.parent_run_id)
            return draft.parent_run_id, str((run or {}).get("info", {}).get("run_name") or draft.training_name)
        answer = self._rest.post(
            "/runs/search",
            experiment_ids=[experiment],
            filter=_tag_is(contract.TAG_TRAINING_KEY, draft.training_key),
            max_results=1,
        )
        for run in answer.get("runs", ()):
            return str(run["info"]["run_id"]), str(run["info"].get("run_name") or draft.training_name)
        tags = _source_tags() | {contract.TAG_TRAINING_KEY: draft.training_key}
        run_id = self._create_run(experiment, draft.training_name, tags)
        self._end_run(run_id)  # it holds its children together; nobody would ever end it later
        return run_id, draft.training_name

    def _create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        answer = self._rest.post(
            "/runs/create",
            experiment_id=experiment,
            run_name=name,
            start_time=milliseconds(datetime.now(UTC)),
            tags=pairs(tags, MAX_RUN_TAG_CHARS),
        )
        return str(answer["run"]["info"]["run_id"])

    def _end_run(self, run_id: str) -> None:
        self._rest.post("/runs/update", run_id=run_id, status="FINISHED", end_time=milliseconds(datetime.now(UTC)))

    def _link_output(self, run_id: str, model_id: str, step: int) -> None:
        run = self._run(run_id) or {}
        outputs = run.get("outputs", {}).get("model_outputs", ())
        if all(output.get("model_id") != model_id for output in outputs):
            self._rest.post("/runs/outputs", run_id=run_id, models=[{"model_id": model_id, "step": step}])


def _place(info: Mapping[str, Any], parent_run_id: str) -> DraftPlace:
    return DraftPlace(
        experiment_id=str(info["experiment_id"]),
        parent_run_id=parent_run_id,
        run_id=str(info["source_run_id"]),
        model_id=str(info["model_id"]),
        artifact_uri=str(info["artifact_uri"]).rstrip("/"),
        ready=info.get("status") == _READY,
    )


def _model_name(draft: CheckpointDraft) -> str:
    return f"checkpoint-{draft.lineage.step}"


def _source_tags() -> dict[str, str]:
    tags = {_SOURCE_NAME: "relay publish", _SOURCE_TYPE: "LOCAL"}
    with contextlib.suppress(KeyError, OSError):  # a container may run as a user without a name
        tags[_USER] = getpass.getuser()
    return tags


def _tag_is(key: str, value: str) -> str:
    return f"tags.`{key}` = {quoted(value)}"
