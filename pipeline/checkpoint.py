"""What a folder must have to be published: config, tokenizer, whole safetensors. Reads headers, never weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pipeline import trainer_state
from pipeline.trainer_state import TrainerState, read_json_object
from registry_hooks import contract, weights
from registry_hooks.errors import NotACheckpointError
from registry_hooks.weights import TensorInfo

CONFIG_FILE = "config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# Any one of these holds the vocabulary.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


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
    """
    _check_folder(folder)
    config = _config(folder)
    weight_files, tensors = _weights(folder)
    tokenizer = _tokenizer_config(folder)
    files = _published(folder, weight_files)
    state = trainer_state.read(folder)
    newest = max((folder / name).stat().st_mtime for name in files)
    return Checkpoint(
        folder=folder,
        origin=folder,
        files=files,
        weights=weight_files,
        dtype=_dtype(folder, tensors),
        num_parameters=sum(tensor.num_elements for tensor in tensors),
        architecture=str(config["architectures"][0]),
        transformers_version=config.get("transformers_version"),
        tokenizer_class=str(tokenizer.get("tokenizer_class") or "PreTrainedTokenizerFast"),
        has_chat_template="chat_template" in tokenizer or "chat_template.jinja" in files,
        step=trainer_state.step_of(folder, state, step),
        saved_at=datetime.fromtimestamp(newest, UTC),
        state=state,
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotACheckpointError(f"{folder} is no folder, so nothing was published: pass a checkpoint folder")
    if (folder / CONFIG_FILE).is_file():
        return
    if any((folder / name).exists() for name in _ADAPTER_FILES):
        raise NotACheckpointError(
            f"{folder} holds only a LoRA adapter, so nothing was published: `relay publish {folder} --merge BASE` "
            "merges it into the checkpoint folder BASE and publishes the result"
        )
    inner = sorted(path.name for path in folder.glob("checkpoint-*") if path.is_dir())
    hint = f"it holds {', '.join(inner[:3])}: publish one of them" if inner else "pass a folder of `save_pretrained`"
    raise NotACheckpointError(
        f"{folder} has no {CONFIG_FILE}, so it is no checkpoint and nothing was published; {hint}"
    )


def _config(folder: Path) -> Mapping[str, Any]:
    config = read_json_object(folder / CONFIG_FILE)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise NotACheckpointError(
            f"{folder / CONFIG_FILE} names no architecture; nothing was published: save it with `save_pretrained`"
        )
    if "auto_map" in config:
        raise NotACheckpointError(
            f"{folder} needs code of its own (auto_map), which Relay never runs; nothing was published: use an "
            "architecture that transformers knows"
        )
    return config


def _weights(folder: Path) -> tuple[tuple[str, ...], tuple[TensorInfo, ...]]:
    """Names of the weight files and all their tensors; index and shards must tell the same."""
    has_single, has_index = (folder / SINGLE_WEIGHTS).is_file(), (folder / WEIGHTS_INDEX).is_file()
    if has_single and has_index:
        raise NotACheckpointError(
            f"{folder} has both {SINGLE_WEIGHTS} and {WEIGHTS_INDEX}, of which one is left over from another save; "
            "nothing was published: remove it"
        )
    if has_single:
        return (SINGLE_WEIGHTS,), weights.read_header(folder / SINGLE_WEIGHTS)
    if has_index:
        return _shards(folder)
    raise NotACheckpointError(_why_no_weights(folder))


def _shards(folder: Path) -> tuple[tuple[str, ...], tuple[TensorInfo, ...]]:
    weight_map = read_json_object(folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise NotACheckpointError(f"{folder / WEIGHTS_INDEX} has no weight_map; nothing was published: save it again")
    names = tuple(sorted({str(name) for name in weight_map.values()}))
    wrong = [name for name in names if Path(name).name != name or not fnmatch(name, contract.WEIGHTS_PATTERN)]
    missing = [name for name in names if not (folder / name).is_file()]
    if wrong or missing:
        raise NotACheckpointError(
            f"{WEIGHTS_INDEX} of {folder} names {(wrong or missing)[0]}, which is "
            f"{'no safetensors file of this folder' if wrong else 'not there'}; nothing was published: save it again"
        )
    tensors = {name: weights.read_header(folder / name) for name in names}
    found = {tensor.name: name for name in names for tensor in tensors[name]}
    if found != weight_map or len(found) != sum(map(len, tensors.values())):
        odd = sorted(set(found.items()) ^ {(str(k), str(v)) for k, v in weight_map.items()})
        raise NotACheckpointError(
            f"{WEIGHTS_INDEX} of {folder} and its shards contradict each other"
            f"{f' about {odd[0][0]!r}' if odd else ''}; nothing was published: save it again"
        )
    return names, tuple(tensor for name in names for tensor in tensors[name])


def _why_no_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickles = [name for name in names if name.startswith("pytorch_model") and _matches(name, contract.PICKLE_FILES)]
    if pickles:
        return (
            f"{folder} has its weights only as pickles ({pickles[0]}), which can run code when they are read; nothing "
            "was published: save it with `save_pretrained(…, safe_serialization=True)`"
        )
    strays = [name for name in names if fnmatch(name, contract.WEIGHTS_PATTERN)]
    if strays:
        return (
            f"{folder} has {strays[0]} but neither {SINGLE_WEIGHTS} nor {WEIGHTS_INDEX}; nothing was published: "
            "the save was not finished, or the files were renamed"
        )
    return f"{folder} has no weights ({SINGLE_WEIGHTS}); nothing was published: save it with `save_pretrained`"


def _tokenizer_config(folder: Path) -> Mapping[str, Any]:
    if not any((folder / name).is_file() for name in _VOCABULARIES) or not (folder / _TOKENIZER_CONFIG).is_file():
        raise NotACheckpointError(
            f"{folder} has no tokenizer ({_VOCABULARIES[0]} and {_TOKENIZER_CONFIG}), so nobody could chat with it; "
            "nothing was published: give the Trainer `processing_class=tokenizer`, or "
            "`tokenizer.save_pretrained` into the folder"
        )
    return read_json_object(folder / _TOKENIZER_CONFIG)


def _published(folder: Path, weight_files: tuple[str, ...]) -> tuple[str, ...]:
    """What may leave, without weights that do not belong to the model, such as an adapter that lies beside it."""
    names = contract.published_files(path.name for path in folder.iterdir() if path.is_file())
    return tuple(n for n in names if n in weight_files or not fnmatch(n, contract.WEIGHTS_PATTERN))


def _dtype(folder: Path, tensors: tuple[TensorInfo, ...]) -> str:
    sizes = Counter[str]()
    for tensor in tensors:
        if tensor.dtype in weights.DTYPE_NAMES:
            sizes[weights.DTYPE_NAMES[tensor.dtype]] += tensor.num_elements
    if not sizes:
        raise NotACheckpointError(
            f"the weights of {folder} are neither float32, bfloat16 nor float16; nothing was published: Relay serves "
            "no quantized checkpoints"
        )
    return sizes.most_common(1)[0][0]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
