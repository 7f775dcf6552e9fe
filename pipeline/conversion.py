"""Writes a copy of a checkpoint in another dtype: shard by shard, the same bytes every time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.checkpoint import Checkpoint
from registry_hooks.checkpoint_files import CONFIG_FILE, WEIGHTS_INDEX, read_json_object
from registry_hooks.errors import CorruptFileError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def convert(checkpoint: Checkpoint, dtype: str, out: Path) -> None:
    """Write the published files of `checkpoint` into the folder `out`, with floating-point weights in `dtype`.

    Holds one shard in memory at a time. Rounds to nearest even, as torch does.

    Raises:
        CorruptFileError: A weight is not finite in `dtype`, or a file cannot be read any more.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in sorted(set(checkpoint.files) - set(checkpoint.weights) - {CONFIG_FILE, WEIGHTS_INDEX}):
        shutil.copy2(checkpoint.folder / name, out / name)
    num_bytes = sum(_convert_shard(checkpoint.folder / name, out / name, dtype) for name in checkpoint.weights)
    _write_config(checkpoint.folder / CONFIG_FILE, out / CONFIG_FILE, dtype)
    if WEIGHTS_INDEX in checkpoint.files:
        index = read_json_object(checkpoint.folder / WEIGHTS_INDEX)
        index["metadata"] = {**index.get("metadata", {}), "total_size": num_bytes}
        _write_json(out / WEIGHTS_INDEX, index)


def _convert_shard(source: Path, target: Path, dtype: str) -> int:
    """Bytes of the converted tensors."""
    with readable(source), safe_open(source, framework="pt") as shard:
        metadata = shard.metadata() or {"format": "pt"}
        tensors = {name: _cast(name, shard.get_tensor(name), dtype) for name in sorted(shard.keys())}
    save_file(tensors, target, metadata=metadata)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _cast(name: str, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    converted = tensor.to(_DTYPES[dtype])
    if not torch.isfinite(converted).all():
        raise CorruptFileError(
            f"tensor {name!r} is not finite in {dtype}, so nothing was published: "
            f"{'the training diverged' if not torch.isfinite(tensor).all() else 'publish it as bfloat16 or as saved'}"
        )
    return converted


def _write_config(source: Path, target: Path, dtype: str) -> None:
    config = read_json_object(source)
    # transformers 5 says `dtype`, older ones `torch_dtype`; both read either.
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    _write_json(target, {**config, key: dtype})


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Read a file of weights inside.

    Raises:
        CorruptFileError: It cannot be read any more.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(
            f"{path} cannot be read any more ({error}), so nothing was published: it was changed meanwhile"
        ) from error
