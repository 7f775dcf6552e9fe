"""Reads `trainer_state.json`: the step of a checkpoint, its eval metrics, what is known of the training's arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_hooks.checkpoint_files import read_json_object
from registry_hooks.errors import NotACheckpointError

STATE_FILE = "trainer_state.json"
EVAL_PREFIX = "eval_"
# Written by the Trainer beside the metrics; they tell of the machine, not of the checkpoint.
_TIMINGS = ("_runtime", "_per_second", "_preparation_time", "_memory_metrics")
# Fields of the state that stay the same for a whole training.
_ARGUMENTS = ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps")
_MAX_STATE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """What the Trainer wrote down.

    Attributes:
        step: `global_step`; None when there is no state.
        eval_step: Step of the last evaluation at or before `step`; None when there was none.
        metrics: Its finite metrics, named as the Trainer wrote them (`eval_loss`).
        nonfinite: Its other metrics: `nan`, `inf` or `-inf`.
        arguments: Arguments of the training that the state tells, as text.
    """

    step: int | None = None
    epoch: float | None = None
    eval_step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    nonfinite: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path) -> TrainerState:
    """The state in a checkpoint folder; an empty one when there is none.

    Raises:
        NotACheckpointError: The file is half-written or malformed.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return TrainerState()
    document = read_json_object(path, max_bytes=_MAX_STATE_BYTES)
    step, epoch, history = document.get("global_step"), document.get("epoch"), document.get("log_history", [])
    if not isinstance(step, int) or not _is_count(step) or not isinstance(history, list):
        raise NotACheckpointError(
            f"{path} has no whole number as global_step, or no log_history; nothing was published"
        )
    eval_step, values = _last_evaluation(history, step)
    return TrainerState(
        step=step,
        epoch=float(epoch) if isinstance(epoch, int | float) and math.isfinite(epoch) else None,
        eval_step=eval_step,
        metrics={key: value for key, value in values.items() if math.isfinite(value)},
        nonfinite={key: str(value) for key, value in values.items() if not math.isfinite(value)},
        arguments={key: str(document[key]) for key in _ARGUMENTS if document.get(key) is not None},
    )


def step_of(folder: Path, state: TrainerState, given: int | None) -> int:
    """The optimizer step of a checkpoint: from its state, else its name (`checkpoint-120`), else as the user says.

    Raises:
        NotACheckpointError: Nobody says, or the user contradicts the Trainer.
    """
    if state.step is not None and given is not None and given != state.step:
        raise NotACheckpointError(
            f"--step {given} contradicts {folder / STATE_FILE}, which says {state.step}; nothing was published: "
            "leave --step out"
        )
    named = re.fullmatch(r"checkpoint-(\d+)", folder.resolve().name)
    for step in (state.step, int(named[1]) if named else None, given):
        if step is not None:
            return step
    raise NotACheckpointError(
        f"nothing says at which step {folder} was saved: it has no {STATE_FILE} and is not called checkpoint-N; "
        "nothing was published: pass --step"
    )


def _last_evaluation(history: list[Any], step: int) -> tuple[int | None, dict[str, float]]:
    """Several evaluation sets leave one entry each, all with the same step."""
    found: dict[int, dict[str, float]] = {}
    for entry in history:
        if isinstance(entry, dict) and _is_count(entry.get("step")) and entry["step"] <= step:
            values = dict(_metrics_in(entry))
            if values:
                found.setdefault(entry["step"], {}).update(values)
    if not found:
        return None, {}
    last = max(found)
    return last, found[last]


def _metrics_in(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key.startswith(EVAL_PREFIX) and not key.endswith(_TIMINGS) and is_number:
            yield key, float(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
