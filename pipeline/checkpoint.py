"""A checkpoint folder as publishing sees it: what the inspector says, and what the Trainer and MLflow's readers add."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import trainer_state
from pipeline.trainer_state import TrainerState
from registry_hooks import checkpoint_files
from registry_hooks.checkpoint_files import CONFIG_FILE, TOKENIZER_CONFIG_FILE, CheckpointFiles
from registry_hooks.errors import NotACheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint folder that can be published.

    Attributes:
        origin: The folder that the trainer wrote; another than `folder` for a converted copy.
        files: Names of the files that are published, sorted.
        weights: Those of them that hold weights.
        dtype: That most of the weights have: `float32`, `bfloat16`, `float16` or `float64`.
        step: Optimizer step of the save.
        saved_at: When its last file was written, UTC.
        tokenizer_class: As the tokenizer's config names it.
    """

    folder: Path
    origin: Path
    files: tuple[str, ...]
    weights: tuple[str, ...]
    dtype: str
    num_parameters: int
    architecture: str
    transformers_version: str | None
    tokenizer_class: str
    has_chat_template: bool
    step: int
    saved_at: datetime
    state: TrainerState


def inspect(folder: Path, *, step: int | None = None) -> Checkpoint:
    """What `folder` holds.

    Args:
        step: The user's word for it; needed when neither the Trainer nor the folder's name says.

    Raises:
        NotACheckpointError: It cannot be published: what is wrong, and what to do.
        SettingsError: It could be, but not from this machine.
    """
    found = checkpoint_files.inspect(folder)
    architecture = _architecture(found)
    if TOKENIZER_CONFIG_FILE not in found.files:
        raise NotACheckpointError(
            f"{folder} has no {TOKENIZER_CONFIG_FILE}, without which MLflow's own loader finds no tokenizer; "
            "nothing was published: give the Trainer `processing_class=tokenizer`, or `tokenizer.save_pretrained` into "
            "the folder"
        )
    state = trainer_state.read(folder)
    newest = max((folder / name).stat().st_mtime for name in found.files)
    return Checkpoint(
        folder=folder,
        origin=folder,
        files=found.files,
        weights=found.weight_files,
        dtype=found.saved_dtype,
        num_parameters=found.num_parameters,
        architecture=architecture,
        transformers_version=found.config.get("transformers_version"),
        tokenizer_class=str(found.tokenizer_config.get("tokenizer_class") or "PreTrainedTokenizerFast"),
        has_chat_template=found.has_chat_template,
        step=trainer_state.step_of(folder, state, step),
        saved_at=datetime.fromtimestamp(newest, UTC),
        state=state,
    )


def _architecture(found: CheckpointFiles) -> str:
    """The class that MLflow's own loader makes of it."""
    architectures = found.config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise NotACheckpointError(
            f"{found.folder / CONFIG_FILE} names no architecture; nothing was published: save it with `save_pretrained`"
        )
    return str(architectures[0])
