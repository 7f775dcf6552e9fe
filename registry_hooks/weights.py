"""Reads the headers of safetensors files: names, shapes and dtypes of the tensors, without their bytes. Pure.

Source: the safetensors format: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes, each at
`data_offsets` from the end of the header, without holes.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_hooks.errors import NotACheckpointError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor as the header describes it; `dtype` in safetensors' spelling (`BF16`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[TensorInfo, ...]:
    """The tensors of a safetensors file, its length checked against its header.

    Raises:
        NotACheckpointError: Truncated, or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise NotACheckpointError(
                    f"{path.name} is truncated or no safetensors file: its header says {length} bytes"
                )
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = tuple(_tensor(name, item) for name, item in header.items())
        end = max((int(item["data_offsets"][1]) for item in header.values()), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise NotACheckpointError(f"{path.name} is damaged or no safetensors file ({error})") from error
    if size != 8 + length + end:
        word = "truncated" if size < 8 + length + end else "too long"
        raise NotACheckpointError(f"{path.name} is {word}: {size} bytes, its header needs {8 + length + end}")
    return tensors


def _tensor(name: str, item: dict[str, Any]) -> TensorInfo:
    info = TensorInfo(name=name, dtype=str(item["dtype"]), shape=tuple(int(n) for n in item["shape"]))
    start, end = item["data_offsets"]
    if info.dtype in ITEM_BYTES and end - start != info.num_elements * ITEM_BYTES[info.dtype]:
        raise ValueError(f"tensor {name!r} of shape {info.shape} does not fill its bytes")
    return info


def folder_tensors(folder: Path) -> tuple[TensorInfo, ...]:
    """The tensors of all safetensors files of a folder."""
    return tuple(tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_header(path))
