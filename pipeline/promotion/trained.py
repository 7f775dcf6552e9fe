"""What training measured of a version, and whether that is its own. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from registry_hooks import contract
from registry_hooks.records import ModelVersion, RunRecord

# MLflow's own name for the run that a run belongs to.
_PARENT_RUN = "mlflow.parentRunId"
_PARAM_EVAL_STEP = "eval_step"
_EVALUATED = "eval_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One version's metric.

    Attributes:
        value: Finite, and measured at the version's own step; None when there is no such number.
        fault: Why there is none, as the end of `its …`; empty when there is one.
        training: Which training it is of; empty for unknown.
    """

    value: float | None
    fault: str
    training: str


def trained(version: ModelVersion, run: RunRecord | None, metric: str) -> Trained:
    """Read the metric of a version.

    Args:
        run: The version's run; None when it has none, or when it was deleted.
        metric: Its name.
    """
    training = (run.tags.get(_PARENT_RUN, "") if run else "") or version.tags.get(contract.TAG_CONFIG_HASH, "")
    fault = _fault(version, run, metric)
    return Trained(value=None if fault or run is None else run.metrics[metric], fault=fault, training=training)


def is_not_finite(version: ModelVersion, metric: str) -> bool:
    """Whether the publisher left the metric out since it was not a finite number."""
    told = version.tags.get(contract.TAG_NONFINITE, "")
    return metric in {entry.partition("=")[0].strip() for entry in told.split(",")}


def _fault(version: ModelVersion, run: RunRecord | None, metric: str) -> str:
    if is_not_finite(version, metric):
        return f"{metric} is not a finite number"
    if run is None:
        return f"run is gone, and with it its {metric}"
    if metric not in run.metrics:
        return f"{metric} is missing"
    if not math.isfinite(run.metrics[metric]):
        return f"{metric} is not a finite number"
    measured = contract.whole_number(run.params.get(_PARAM_EVAL_STEP))
    if metric.startswith(_EVALUATED) and measured is not None and version.step not in (None, measured):
        return f"{metric} is that of step {measured}, the last evaluation before it was saved, and not its own"
    return ""
