"""Whether a folder can be a checkpoint at all: read from its files, before torch sees a byte. Standard library only.

A safetensors file is 8 bytes of little-endian header length, a JSON header, and the tensors' bytes without holes.
Source: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

from registry_hooks.contract import PICKLE_FILES
from registry_hooks.errors import NotACheckpointError

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
# Any one of these is enough to build a tokenizer from.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_MAX_HEADER_BYTES = 100_000_000
_DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    name: str
    dtype: str
    start: int
    end: int


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
    tensors = [tensor for shard in shards for tensor in read_header(shard)]
    _check_index(folder, shards)
    num_bytes: Counter[str] = Counter()
    for tensor in tensors:
        num_bytes[tensor.dtype] += tensor.end - tensor.start
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


def read_header(path: Path) -> list[_Tensor]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises:
        NotACheckpointError: The file is truncated, its header is malformed, or its tensors leave holes or overlap.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            num_header_bytes = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= num_header_bytes <= min(size - 8, _MAX_HEADER_BYTES):
                raise _corrupt(path, f"its header cannot be {num_header_bytes} bytes long in a file of {size}")
            header = json.loads(file.read(num_header_bytes))
        tensors = sorted(
            (_tensor(name, entry) for name, entry in header.items() if name != "__metadata__"),
            key=lambda tensor: (tensor.start, tensor.end),
        )
    except OSError as error:
        raise _corrupt(path, str(error)) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path, f"its header is malformed ({error!r})") from error
    _check_layout(path, tensors, size - 8 - num_header_bytes)
    return tensors


def _tensor(name: str, entry: dict[str, Any]) -> _Tensor:
    start, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError(f"{name}: shape {shape} at {start}..{end}")
    if end - start != math.prod(shape) * _DTYPE_BYTES[entry["dtype"]]:
        raise ValueError(f"{name}: {end - start} bytes for shape {shape} of {entry['dtype']}")
    return _Tensor(name=name, dtype=entry["dtype"], start=start, end=end)


def _check_layout(path: Path, tensors: list[_Tensor], num_data_bytes: int) -> None:
    if not tensors:
        raise _corrupt(path, "it holds no tensor")
    end = tensors[-1].end
    if end > num_data_bytes:
        raise _corrupt(path, f"it is truncated: {num_data_bytes} bytes of weights where the header names {end}")
    if end < num_data_bytes or tensors[0].start or any(a.end != b.start for a, b in pairwise(tensors)):
        raise _corrupt(path, "its header does not cover the file's bytes one by one")


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
        held = {tensor.name for tensor in read_header(shard)}
        named = {key for key, name in _weight_map(folder).items() if name == shard.name}
        if held != named:
            odd = sorted(held ^ named)[0]
            raise NotACheckpointError(
                f"{shard.name} and {_INDEX} disagree about the tensor {odd}: nothing was loaded; save it again"
            )


def _corrupt(path: Path, what: str) -> NotACheckpointError:
    return NotACheckpointError(f"{path} is damaged, {what}: nothing was loaded; copy or save it again")
