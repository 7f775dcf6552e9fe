"""The registry as servers and people see it: versions, aliases, tags and records of events, in an MLflow server."""

from __future__ import annotations

import math
import os
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from registry_hooks.errors import UnknownModelError, UserError
from registry_hooks.mlflow_rest import ALREADY_EXISTS, DOES_NOT_EXIST, INVALID_VALUE, MlflowRest
from registry_hooks.records import ModelVersion, RunRecord

# What MLflow's tables hold. Longer texts are cut here, at the door, since a refused report is worse than a cut one.
MAX_REGISTRY_TAG_CHARS = 5000
MAX_RUN_TAG_CHARS = 8000
MAX_PARAM_CHARS = 6000
MAX_KEY_CHARS = 250
_MAX_PARAMS_PER_CALL = 100
_MAX_METRICS_PER_CALL = 1000
_MAX_REMEMBERED_URIS = 256
# MLflow stores an infinity as the largest double.
_STORED_INFINITY = 1.7976931348623157e308


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
        return self.version_of(answer["model_version"]) if answer else None

    def get_version(self, name: str, version: int) -> ModelVersion:
        """One version."""
        return self.version_of(self.rest.get("/model-versions/get", name=name, version=str(version))["model_version"])

    def run_metrics(self, run_id: str) -> Mapping[str, float]:
        """Last value of each metric of a run; NaN and infinities as they were logged."""
        run = self.rest.get("/runs/get", run_id=run_id)["run"]
        return _metrics_of(run)

    def set_version_tag(self, name: str, version: int, key: str, value: str | None) -> None:
        """Set a tag of a version; None removes it, also when it was not there."""
        self._set_tag("/model-versions", key, value, name=name, version=str(version))

    def set_model_tag(self, name: str, key: str, value: str | None) -> None:
        """Set a tag of a registered model; None removes it, also when it was not there."""
        self._set_tag("/registered-models", key, value, name=name)

    def record_run(self, record: RunRecord) -> str:
        """Write one finished run, making its experiment if need be; the run's id."""
        started = record.started_at or datetime.now(UTC)
        run = self.rest.post(
            "/runs/create",
            experiment_id=experiment_id(self.rest, record.experiment),
            run_name=record.run_name,
            start_time=milliseconds(started),
            tags=pairs(record.tags, MAX_RUN_TAG_CHARS),
        )["run"]
        run_id = str(run["info"]["run_id"])
        log_batch(self.rest, run_id, metrics=metric_entries(record.metrics, at=started), params=record.params)
        self.rest.post(
            "/runs/update",
            run_id=run_id,
            status="FAILED" if record.failed else "FINISHED",
            end_time=milliseconds(record.ended_at or datetime.now(UTC)),
        )
        return run_id

    def model_tags(self, name: str) -> Mapping[str, str]:
        """Tags of the registered model."""
        return _mapping(self._model(name).get("tags", ()))

    def aliases(self, name: str) -> Mapping[str, int]:
        """All aliases of the registered model, with the versions that they name."""
        return {entry["alias"]: int(entry["version"]) for entry in self._model(name).get("aliases", ())}

    def latest_runs(self, experiment: str, limit: int) -> Sequence[RunRecord]:
        """The newest runs of an experiment, newest first; empty when there is no such experiment."""
        found = find_experiment(self.rest, experiment)
        if found is None:
            return ()
        answer = self.rest.post(
            "/runs/search", experiment_ids=[found], max_results=limit, order_by=["attributes.start_time DESC"]
        )
        return tuple(_record_of(experiment, run) for run in answer.get("runs", ()))

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
        """The record of a version as MLflow's REST API shows it."""
        source = str(document.get("source", ""))
        return ModelVersion(
            name=str(document["name"]),
            version=int(document["version"]),
            run_id=document.get("run_id") or None,
            model_id=source.removeprefix("models:/") if source.startswith("models:/m-") else None,
            artifact_uri=self._artifact_uri(document),
            status=str(document.get("status", "READY")),
            tags=_mapping(document.get("tags", ())),
            description=str(document.get("description") or ""),
        )

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


def find_experiment(rest: MlflowRest, name: str) -> str | None:
    """Id of the experiment of that name; None when there is none."""
    answer = rest.call(
        "GET",
        "/experiments/get-by-name",
        params={"experiment_name": name},
        absent=lambda code, message: code == DOES_NOT_EXIST,
    )
    return str(answer["experiment"]["experiment_id"]) if answer else None


def experiment_id(rest: MlflowRest, name: str) -> str:
    """Id of the experiment of that name, which is made if need be."""
    found = find_experiment(rest, name)
    if found is not None:
        return found
    created = rest.call(
        "POST", "/experiments/create", body={"name": name}, absent=lambda code, message: code == ALREADY_EXISTS
    )
    if created:
        return str(created["experiment_id"])
    found = find_experiment(rest, name)  # somebody else made it in between
    if found is None:
        raise UnknownModelError(f"MLflow has an experiment {name!r} that it does not show: restore or rename it")
    return found


def log_batch(
    rest: MlflowRest, run_id: str, *, metrics: Sequence[Mapping[str, object]] = (), params: Mapping[str, str]
) -> None:
    """Add metrics and params to a run, in as many calls as MLflow's limits ask for."""
    for some in _batches(metrics, _MAX_METRICS_PER_CALL):
        rest.post("/runs/log-batch", run_id=run_id, metrics=some)
    for some in _batches(pairs(params, MAX_PARAM_CHARS), _MAX_PARAMS_PER_CALL):
        rest.post("/runs/log-batch", run_id=run_id, params=some)


def metric_entries(
    metrics: Mapping[str, float], *, at: datetime, step: int = 0, model_id: str | None = None
) -> list[dict[str, object]]:
    """Metrics as the REST API takes them; with `model_id` they show at the LoggedModel too."""
    shared: dict[str, object] = {"timestamp": milliseconds(at), "step": step}
    if model_id:
        shared["model_id"] = model_id
    return [{"key": key[:MAX_KEY_CHARS], "value": _number(value), **shared} for key, value in metrics.items()]


def pairs(mapping: Mapping[str, str], max_chars: int) -> list[dict[str, str]]:
    """Tags or params as the REST API takes them, cut to what it accepts."""
    return [{"key": key[:MAX_KEY_CHARS], "value": value[:max_chars]} for key, value in mapping.items()]


def quoted(text: str) -> str:
    """A string of MLflow's filter language, which has no escapes: it takes the quote that the text has not."""
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise UserError(f"{text!r} holds both kinds of quotes, which MLflow cannot search for: choose another name")


def milliseconds(moment: datetime) -> int:
    """Unix time in milliseconds."""
    return round(moment.timestamp() * 1000)


def _no_such_alias(code: str, message: str) -> bool:
    return code == INVALID_VALUE and "alias" in message.lower() and "not found" in message.lower()


def _mapping(entries: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {entry["key"]: entry.get("value", "") for entry in entries}


def _batches(entries: Sequence[Mapping[str, object]], size: int) -> Iterator[Sequence[Mapping[str, object]]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _metrics_of(run: Mapping[str, Any]) -> dict[str, float]:
    values = {entry["key"]: float(entry.get("value", 0.0)) for entry in run["data"].get("metrics", ())}
    return {key: math.copysign(math.inf, v) if abs(v) >= _STORED_INFINITY else v for key, v in values.items()}


def _record_of(experiment: str, run: Mapping[str, Any]) -> RunRecord:
    info, data = run["info"], run["data"]
    return RunRecord(
        experiment=experiment,
        run_name=str(info.get("run_name", "")),
        params=_mapping(data.get("params", ())),
        metrics=_metrics_of(run),
        tags=_mapping(data.get("tags", ())),
        failed=info.get("status") in ("FAILED", "KILLED"),
        is_open=info.get("status") in ("RUNNING", "SCHEDULED"),
        run_id=str(info.get("run_id", "")),
        started_at=_moment(info.get("start_time")),
        ended_at=_moment(info.get("end_time")),
    )


def _moment(milliseconds_since_1970: int | None) -> datetime | None:
    return datetime.fromtimestamp(int(milliseconds_since_1970) / 1000, UTC) if milliseconds_since_1970 else None
