"""Runs and experiments of MLflow's tracking side, as its REST API takes and shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from registry_hooks import contract, mlflow_names
from registry_hooks.errors import DeletedExperimentError, UnknownModelError, UserError
from registry_hooks.mlflow_rest import ALREADY_EXISTS, DOES_NOT_EXIST, MlflowRest
from registry_hooks.records import RunRecord

# What MLflow's tables hold. Longer texts are cut here, at the door, since a refused report is worse than a cut one.
MAX_RUN_TAG_CHARS = 8000
MAX_PARAM_CHARS = 6000
_MAX_PARAMS_PER_CALL = 100
_MAX_METRICS_PER_CALL = 1000
# MLflow stores an infinity as the largest double.
_STORED_INFINITY = 1.7976931348623157e308


def find_experiment(rest: MlflowRest, name: str) -> str | None:
    """Id of the experiment of that name; None when there is none.

    Raises:
        DeletedExperimentError: There is one, and somebody deleted it: MLflow still knows it by name.
    """
    answer = rest.call(
        "GET",
        "/experiments/get-by-name",
        params={"experiment_name": name},
        absent=lambda code, message: code == DOES_NOT_EXIST,
    )
    if not answer:
        return None
    found = str(answer["experiment"]["experiment_id"])
    if answer["experiment"].get("lifecycle_stage") == "deleted":
        raise DeletedExperimentError(
            f"the experiment {name!r} (id {found}) is deleted in MLflow at {rest.tracking_uri}, so nothing was read or "
            f"written there: restore it with `mlflow experiments restore --experiment-id {found}`, which brings all "
            "its runs back",
            experiment=name,
        )
    return found


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
        raise UnknownModelError(
            f"MLflow has an experiment {name!r} that it does not show: restore or rename it", what="experiment"
        )
    return found


def create_run(rest: MlflowRest, record: RunRecord) -> str:
    """Write a run that is RUNNING, making its experiment if need be; the run's id."""
    started = record.started_at or datetime.now(UTC)
    run = rest.post(
        "/runs/create",
        experiment_id=experiment_id(rest, record.experiment),
        run_name=record.run_name,
        start_time=milliseconds(started),
        tags=pairs(record.tags, MAX_RUN_TAG_CHARS),
    )["run"]
    run_id = str(run["info"]["run_id"])
    metrics = metric_entries(record.metrics, at=started)
    for name, values in record.series.items():
        for step, value in values.items():
            metrics += metric_entries({name: value}, at=started, step=step)
    log_batch(rest, run_id, metrics=metrics, params=record.params)
    return run_id


def search_runs(rest: MlflowRest, experiment: str, *, limit: int, condition: str = "") -> Sequence[RunRecord]:
    """The newest runs of an experiment, newest first; empty when there is no such experiment.

    Raises:
        DeletedExperimentError: Somebody deleted the experiment.
    """
    found = find_experiment(rest, experiment)
    if found is None:
        return ()
    answer = rest.post(
        "/runs/search",
        experiment_ids=[found],
        filter=condition,
        max_results=limit,
        order_by=["attributes.start_time DESC"],
    )
    return tuple(record_of(experiment, run) for run in answer.get("runs", ()))


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
    names = mlflow_names.renamed(metrics)
    return [{"key": names[key], "value": _number(value), **shared} for key, value in metrics.items()]


def pairs(mapping: Mapping[str, str], max_chars: int) -> list[dict[str, str]]:
    """Tags or params as the REST API takes them, cut to what it accepts."""
    names = mlflow_names.renamed(mapping)
    return [{"key": names[key], "value": value[:max_chars]} for key, value in mapping.items()]


def renaming_tag(names: Iterable[str]) -> str:
    """What a run's tag `relay.renamed` says of metrics and params that MLflow does not take; empty for none.

    As many as the tag holds.
    """
    told: dict[str, str] = {}
    for new, old in mlflow_names.changes(names).items():
        if len(json.dumps(told | {new: old}, ensure_ascii=False)) > MAX_RUN_TAG_CHARS:
            break
        told[new] = old
    return json.dumps(told, ensure_ascii=False) if told else ""


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


def _batches(entries: Sequence[Mapping[str, object]], size: int) -> Iterator[Sequence[Mapping[str, object]]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def metrics_of(run: Mapping[str, Any]) -> dict[str, float]:
    """Last value of each metric, by the name that it had before MLflow was told of it."""
    names = _names_before(run)
    values = {
        names.get(entry["key"], entry["key"]): float(entry.get("value", 0.0))
        for entry in run["data"].get("metrics", ())
    }
    return {key: math.copysign(math.inf, v) if abs(v) >= _STORED_INFINITY else v for key, v in values.items()}


def _names_before(run: Mapping[str, Any]) -> Mapping[str, str]:
    text = mapping(run["data"].get("tags", ())).get(contract.TAG_RENAMED, "")
    try:
        names = json.loads(text) if text else {}
    except ValueError:  # a person changed it
        return {}
    return {str(new): str(old) for new, old in names.items()} if isinstance(names, dict) else {}


def mapping(entries: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {entry["key"]: entry.get("value", "") for entry in entries}


def record_of(experiment: str, run: Mapping[str, Any]) -> RunRecord:
    """A run as the REST API shows it."""
    info, data = run["info"], run["data"]
    return RunRecord(
        experiment=experiment,
        run_name=str(info.get("run_name", "")),
        params=mapping(data.get("params", ())),
        metrics=metrics_of(run),
        tags=mapping(data.get("tags", ())),
        failed=info.get("status") in ("FAILED", "KILLED"),
        is_open=info.get("status") in ("RUNNING", "SCHEDULED"),
        run_id=str(info.get("run_id", "")),
        started_at=_moment(info.get("start_time")),
        ended_at=_moment(info.get("end_time")),
    )


def _moment(milliseconds_since_1970: int | None) -> datetime | None:
    return datetime.fromtimestamp(int(milliseconds_since_1970) / 1000, UTC) if milliseconds_since_1970 else None
