"""Whether a folder can be a checkpoint at all: read from its files, before torch sees a byte. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from registry_hooks import weights
from registry_hooks.contract import PICKLE_FILES
from registry_hooks.errors import NotACheckpointError

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
# Any one of these is enough to build a tokenizer from.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_FLOAT_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """What the files of a checkpoint say of it.

    Attributes:
        num_weight_bytes: Bytes of all tensors as saved.
        saved_dtype: The float dtype that most bytes have; `float32` for one that we do not compute in.
    """

    folder: Path
    num_weight_bytes: int
    saved_dtype: str


def inspect(folder: Path) -> CheckpointFiles:
    """Check the files of `folder` and say what they hold. Reads headers only, never the weights.

    Raises:
        NotACheckpointError: A file is missing, malformed, truncated, or needs code or pickles to be loaded.
    """
    if not folder.is_dir():
        raise NotACheckpointError(f"{folder} is no folder: nothing was loaded; name the folder of a checkpoint")
    _check_config(folder)
    shards = _weight_files(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise NotACheckpointError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZERS[:3])}, …): nothing was loaded; "
            "save it beside the model with tokenizer.save_pretrained"
        )
    tensors = [tensor for shard in shards for tensor in weights.read_header(shard)]
    _check_index(folder, shards)
    num_bytes: Counter[str] = Counter()
    for tensor in tensors:
        num_bytes[tensor.dtype] += tensor.size_bytes
    floats = Counter({dtype: num_bytes[dtype] for dtype in _FLOAT_DTYPES if dtype in num_bytes})
    saved_dtype = _FLOAT_DTYPES[floats.most_common(1)[0][0]] if floats else "float32"
    return CheckpointFiles(folder=folder, num_weight_bytes=num_bytes.total(), saved_dtype=saved_dtype)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file.

    Raises:
        NotACheckpointError: It cannot be read, or is something else.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NotACheckpointError(f"{path} cannot be read ({error}): nothing was loaded; save it again") from error
    if not isinstance(document, dict):
        raise NotACheckpointError(f"{path} holds no JSON object: nothing was loaded; save it again")
    return document


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise NotACheckpointError(f"{folder} has no config.json: nothing was loaded; name the folder of a checkpoint")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise NotACheckpointError(
                f"{folder / name} has auto_map, so it wants its own Python code run: refused; "
                "convert the checkpoint to an architecture of transformers"
            )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if (folder / _INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise NotACheckpointError(
                f"{folder} lacks {missing[0]} of the {len(names)} files that {_INDEX} names: nothing was loaded; "
                "the copy is not complete"
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.iterdir() if any(fnmatch(path.name, p) for p in PICKLE_FILES))
    if pickles:
        raise NotACheckpointError(
            f"{folder} has pickled weights only ({pickles[0]}), which can run code when they are read: refused; "
            "save it with save_pretrained, which writes safetensors"
        )
    raise NotACheckpointError(f"{folder} has no {_WHOLE} and no {_INDEX}: nothing was loaded")


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise NotACheckpointError(f"{folder / _INDEX} has no weight_map: nothing was loaded; save it again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise NotACheckpointError(f"{folder / _INDEX} names the file {name!r}: refused; save it again")
    return weight_map


def _check_index(folder: Path, shards: list[Path]) -> None:
    if shards[0].name == _WHOLE:
        return
    for shard in shards:
        held = {tensor.name for tensor in weights.read_header(shard)}
        named = {key for key, name in _weight_map(folder).items() if name == shard.name}
        if held != named:
            odd = sorted(held ^ named)[0]
            raise NotACheckpointError(
                f"{shard.name} and {_INDEX} disagree about the tensor {odd}: nothing was loaded; save it again"
            )
