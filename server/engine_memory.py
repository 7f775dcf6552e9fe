"""Memory that an engine takes and a device has, told without starting or importing one: from headers and nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import psutil

from registry_hooks import weights
from server import gpu
from server.engine_spec import DEFAULT_KV_BYTES

# What an engine process needs beside its weights: interpreter, torch and some rows of keys and values; on the GPU the
# CUDA context, to which all the rows come, which are taken at once there.
_PROCESS_BYTES = {"cpu": 750_000_000, "cuda": 1_200_000_000}
_BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


def device_of(setting: str) -> str:
    """`cpu` or `cuda`: where an engine with that `engine.device` will run, without asking torch."""
    if setting != "auto":
        return setting
    return "cuda" if gpu.card() is not None else "cpu"


def overhead_bytes(device: str, kv_budget_bytes: int) -> int:
    """Memory of an engine beside its weights; a budget of 0 is the device's default."""
    rows = (kv_budget_bytes or DEFAULT_KV_BYTES[device]) if device == "cuda" else 0
    return _PROCESS_BYTES[device] + rows


def weight_bytes(folder: Path, device: str, dtype: str) -> int:
    """Memory of the weights of the checkpoint in `folder` as an engine holds them, from their headers."""
    item_bytes = _BYTES_PER_ELEMENT.get(_resolved(dtype, device))
    tensors = weights.folder_tensors(folder)
    return sum(t.num_elements * (item_bytes or weights.ITEM_BYTES.get(t.dtype, 4)) for t in tensors)


def estimated_weight_bytes(size_bytes: int, stored_dtype: str, device: str, dtype: str) -> int:
    """The same before the files are here, from what the registry says of them."""
    stored = _BYTES_PER_ELEMENT.get(stored_dtype, 4)
    return size_bytes * _BYTES_PER_ELEMENT.get(_resolved(dtype, device), stored) // stored


def _resolved(dtype: str, device: str) -> str:
    return "float32" if dtype == "auto" and device == "cpu" else dtype


def free_bytes(device: str) -> int | None:
    """Free memory of the device now, of the card that engines use; None when it cannot be told."""
    if device != "cuda":
        return psutil.virtual_memory().available
    card = gpu.card()
    return card.free_bytes if card else None
