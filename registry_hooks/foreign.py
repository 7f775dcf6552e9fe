"""Versions that other tools made: where in their artifacts the checkpoint lies. Pure.

Plain MLflow publishes no manifest. Its transformers flavour keeps the weights in `model/` and the tokenizer in
`components/tokenizer/`; people also log a bare checkpoint folder. Source: MLflow 3.17, `mlflow/transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from registry_hooks import contract
from registry_hooks.errors import NotACheckpointError, ObjectMissingError
from registry_hooks.records import ObjectInfo

_CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file of a checkpoint that nobody described.

    Attributes:
        key: Below the artifact root.
        path: Where Relay puts it: `model/NAME`.
        etag: The state of it that was listed.
    """

    key: str
    path: str
    size_bytes: int
    etag: str = ""


def find_checkpoint(objects: Sequence[ObjectInfo], uri: str) -> list[Found]:
    """The files that make up the checkpoint below `uri`, and no others.

    Raises:
        ObjectMissingError: There is nothing: it was never written, is gone, or lies in another store.
        NotACheckpointError: There is no config.json, or no safetensors.
    """
    if not objects:
        raise ObjectMissingError(
            f"{uri} holds no files at all: the version was not served; log the model again, or let "
            "`store.endpoint_url` name the store that has it"
        )
    roots = {folder: _files_in(objects, folder) for folder in ("", f"{contract.MODEL_DIR}/")}
    folder = next((folder for folder, files in roots.items() if _CONFIG in files), None)
    if folder is None:
        raise NotACheckpointError(
            f"{uri} has no {_CONFIG}, neither at its root nor in {contract.MODEL_DIR}/: it is no Hugging Face "
            "checkpoint and was not served"
        )
    files = roots[folder]
    names = contract.published_files(files)
    if not any(fnmatch(name, contract.WEIGHTS_PATTERN) for name in names):
        raise NotACheckpointError(_no_weights(files, uri))
    found = {name: files[name] for name in names}
    if not set(names) & set(contract.VOCABULARY_FILES):  # beside weights there is often a chat template alone
        tokenizer = _files_in(objects, f"{contract.TOKENIZER_DIR}/")
        found |= {name: item for name, item in tokenizer.items() if name in contract.TOKENIZER_FILES}
    return [
        Found(key=item.key, path=f"{contract.MODEL_DIR}/{name}", size_bytes=item.size_bytes, etag=item.etag)
        for name, item in sorted(found.items())
    ]


def _files_in(objects: Sequence[ObjectInfo], folder: str) -> Mapping[str, ObjectInfo]:
    """Files directly in `folder`, by name; names with a slash are deeper, so no path can lead out of it."""
    named = {item.key.removeprefix(folder): item for item in objects if item.key.startswith(folder)}
    return {name: item for name, item in named.items() if "/" not in name}


def _no_weights(files: Mapping[str, ObjectInfo], uri: str) -> str:
    pickles = [name for name in files if any(fnmatch(name, pattern) for pattern in contract.PICKLE_FILES)]
    if pickles:
        return (
            f"{uri} has its weights only as pickle ({sorted(pickles)[0]}), which can run code when it is loaded: it "
            "was not served; save the model with safe_serialization=True and log it again"
        )
    return f"{uri} has no {contract.WEIGHTS_PATTERN}: it was not served; save the model as safetensors and log it again"
