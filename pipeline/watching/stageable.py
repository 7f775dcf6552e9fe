"""What may be staged: a checkpoint, or a LoRA adapter where the base is known that it will be merged into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline import checkpoint as checkpoints
from pipeline import trainer_state
from pipeline.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from pipeline.training_arguments import TRAINING_ARGS_FILE
from registry_hooks import contract, weights
from registry_hooks.checkpoint_files import read_json_object
from registry_hooks.errors import NotACheckpointError

# Staged beside what is published: the configuration hash is made of one, a merged model of the other.
_BESIDE = (TRAINING_ARGS_FILE, ADAPTER_CONFIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stageable:
    """A save that is whole.

    Attributes:
        files: Names of the files that are staged, sorted.
        base: The model that it is merged into; None for a checkpoint.
    """

    folder: Path
    files: tuple[str, ...]
    step: int
    base: Path | None


def inspect(folder: Path, *, base: Path | None) -> Stageable:
    """What `folder` holds, read no further than headers.

    Args:
        base: The model that adapters are merged into; a checkpoint is staged as it is.

    Raises:
        NotACheckpointError: It cannot be published; says why.
    """
    if is_adapter(folder):
        return _adapter(folder, base)
    found = checkpoints.inspect(folder)
    beside = [TRAINING_ARGS_FILE] if (folder / TRAINING_ARGS_FILE).is_file() else []
    return Stageable(folder=folder, files=tuple(sorted([*found.files, *beside])), step=found.step, base=None)


def names_of(folder: Path) -> list[str]:
    """The files in a folder that staging would take, whole or not."""
    names = [path.name for path in folder.iterdir()]
    return [*contract.published_files(names), *(name for name in names if name in _BESIDE)]


def _adapter(folder: Path, base: Path | None) -> Stageable:
    if base is None:
        raise NotACheckpointError(
            f"{folder} holds only a LoRA adapter, so nothing was published: name the model that it was trained on, "
            "`RelayCallback(merge=BASE)` or `relay watch --merge BASE`, and each save is merged into it and published"
        )
    read_json_object(folder / ADAPTER_CONFIG)
    weights.read_header(folder / ADAPTER_WEIGHTS)
    step = trainer_state.step_of(folder, trainer_state.read(folder), None)
    return Stageable(folder=folder, files=tuple(sorted(names_of(folder))), step=step, base=base.resolve())
