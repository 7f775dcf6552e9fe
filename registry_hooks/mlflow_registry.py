"""The registry as servers and people see it: versions, aliases, tags and records of events, in an MLflow server."""

from __future__ import annotations

import os
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.mlflow_rest import INVALID_VALUE, MlflowRest
from registry_hooks.mlflow_runs import create_run, mapping, metrics_of, milliseconds, quoted, record_of, search_runs
from registry_hooks.records import ModelVersion, RunRecord

# What MLflow's tables hold. Longer texts are cut here, at the door, since a refused report is worse than a cut one.
MAX_REGISTRY_TAG_CHARS = 5000
_MAX_REMEMBERED_URIS = 256


class MlflowRegistry:
    """`VersionSource`, `ReportSink` and `ModelOverview` on an MLflow server; may be called from any thread.

    Args:
        tracking_uri: `http(s)://host[:port][/prefix]`.
        timeout_s: Bound on one read; nothing is tried twice.
        write_timeout_s: Bound on one write.

    Raises:
        SettingsError: A URI that is not HTTP.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        timeout_s: float = 3.0,
        write_timeout_s: float = 20.0,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.rest = MlflowRest(tracking_uri, timeout_s=timeout_s, write_timeout_s=write_timeout_s, environ=environ)
        self._uris: OrderedDict[tuple[str, ...], str] = OrderedDict()
        self._uris_lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self.rest.close()

    def resolve_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that `alias` names now; one request when that version was seen before, else two."""
        answer = self.rest.call(
            "GET", "/registered-models/alias", params={"name": name, "alias": alias}, absent=_no_such_alias
        )
        return self.located(answer["model_version"]) if answer else None

    def get_version(self, name: str, version: int) -> ModelVersion:
        """One version, and where its files lie."""
        return self.located(self.rest.get("/model-versions/get", name=name, version=str(version))["model_version"])

    def run_metrics(self, run_id: str) -> Mapping[str, float]:
        """Last value of each metric of a run; NaN and infinities as they were logged."""
        run = self.rest.get("/runs/get", run_id=run_id)["run"]
        return metrics_of(run)

    def get_run(self, run_id: str) -> RunRecord:
        """All that a run tells."""
        return record_of("", self.rest.get("/runs/get", run_id=run_id)["run"])

    def set_version_tag(self, name: str, version: int, key: str, value: str | None) -> None:
        """Set a tag of a version; None removes it, also when it was not there."""
        self._set_tag("/model-versions", key, value, name=name, version=str(version))

    def set_model_tag(self, name: str, key: str, value: str | None) -> None:
        """Set a tag of a registered model; None removes it, also when it was not there."""
        self._set_tag("/registered-models", key, value, name=name)

    def record_run(self, record: RunRecord) -> str:
        """Write one finished run, making its experiment if need be; the run's id."""
        run_id = create_run(self.rest, record)
        self.rest.post(
            "/runs/update",
            run_id=run_id,
            status="FAILED" if record.failed else "FINISHED",
            end_time=milliseconds(record.ended_at or datetime.now(UTC)),
        )
        return run_id

    def model_tags(self, name: str) -> Mapping[str, str]:
        """Tags of the registered model."""
        return mapping(self._model(name).get("tags", ()))

    def aliases(self, name: str) -> Mapping[str, int]:
        """All aliases of the registered model, with the versions that they name."""
        return {entry["alias"]: int(entry["version"]) for entry in self._model(name).get("aliases", ())}

    def latest_runs(self, experiment: str, limit: int) -> Sequence[RunRecord]:
        """The newest runs of an experiment, newest first; empty when there is no such experiment."""
        return search_runs(self.rest, experiment, limit=limit)

    def newest_versions(self, name: str, limit: int) -> Sequence[ModelVersion]:
        """The newest versions, newest first; empty when there is no such model."""
        answer = self.rest.get(
            "/model-versions/search",
            filter=f"name = {quoted(name)}",
            max_results=str(limit),
            order_by="version_number DESC",
        )
        return tuple(self.version_of(document) for document in answer.get("model_versions", ()))

    def version_of(self, document: Mapping[str, Any]) -> ModelVersion:
        """The record of a version as MLflow's REST API shows it; where its files lie costs more, and is not asked."""
        source = str(document.get("source", ""))
        name, number, tags = str(document["name"]), int(document["version"]), mapping(document.get("tags", ()))
        is_copy = source.startswith("models:/") and "/" in source.removeprefix("models:/")
        copied = contract.copied_tags(f"{name}/{number}", tags, is_copy=is_copy)
        return ModelVersion(
            name=name,
            version=number,
            run_id=document.get("run_id") or None,
            model_id=source.removeprefix("models:/") if source.startswith("models:/m-") else None,
            artifact_uri="",
            status=str(document.get("status", "READY")),
            tags={key: value for key, value in tags.items() if key not in copied},
            description=str(document.get("description") or ""),
            copied_tags=copied,
            stage=str(document.get("current_stage") or "").removeprefix("None"),
        )

    def located(self, document: Mapping[str, Any]) -> ModelVersion:
        """A version and where its files lie: nowhere, when the run or the LoggedModel behind it is gone."""
        version = self.version_of(document)
        try:
            return replace(version, artifact_uri=self._artifact_uri(document))
        except UnknownModelError:
            return version

    def _artifact_uri(self, document: Mapping[str, Any]) -> str:
        """Where a version's files lie. Never changes for one version, so it is asked for once."""
        key = tuple(str(document.get(field, "")) for field in ("name", "version", "creation_timestamp", "source"))
        with self._uris_lock:
            known = self._uris.get(key)
        if known is not None:
            return known
        answer = self.rest.get("/model-versions/get-download-uri", name=key[0], version=key[1])
        uri = self._storage_of(str(answer.get("artifact_uri") or document.get("source", ""))).rstrip("/")
        with self._uris_lock:
            self._uris[key] = uri
            while len(self._uris) > _MAX_REMEMBERED_URIS:
                self._uris.popitem(last=False)
        return uri

    def _storage_of(self, uri: str) -> str:
        """The storage location behind `models:/m-…` and `runs:/…`; other URIs are storage locations already."""
        if uri.startswith("models:/m-"):
            model = self.rest.get(f"/logged-models/{urllib.parse.quote(uri.removeprefix('models:/'), safe='')}")
            return str(model["model"]["info"]["artifact_uri"])
        if uri.startswith("runs:/"):
            run_id, _, path = uri.removeprefix("runs:/").partition("/")
            run = self.rest.get("/runs/get", run_id=run_id)["run"]
            return f"{str(run['info']['artifact_uri']).rstrip('/')}/{path}"
        return uri

    def _model(self, name: str) -> Mapping[str, Any]:
        model: Mapping[str, Any] = self.rest.get("/registered-models/get", name=name)["registered_model"]
        return model

    def _set_tag(self, entity: str, key: str, value: str | None, **identity: str) -> None:
        if value is None:
            self.rest.call("DELETE", f"{entity}/delete-tag", body={**identity, "key": key})
        else:
            self.rest.post(f"{entity}/set-tag", **identity, key=key, value=value[:MAX_REGISTRY_TAG_CHARS])


def _no_such_alias(code: str, message: str) -> bool:
    return code == INVALID_VALUE and "alias" in message.lower() and "not found" in message.lower()
