"""Reads the headers of safetensors files: names, shapes and dtypes of the tensors, without their bytes. Pure.

A safetensors file is 8 bytes of little-endian header length, a JSON header, and the tensors' bytes without holes.
Source: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from registry_hooks.errors import NotACheckpointError, UnreadableFileError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor as the header describes it.

    Attributes:
        dtype: In safetensors' spelling (`BF16`).
        start: Where its bytes begin, counted from the end of the header.
        end: Where they end, exclusive.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


def read_header(path: Path) -> tuple[TensorInfo, ...]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises:
        UnreadableFileError: It cannot be read here and now.
        NotACheckpointError: The file is truncated, its header is malformed, or its tensors leave holes or overlap.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            num_header_bytes = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= num_header_bytes <= min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, f"it is truncated or no safetensors file: {size} bytes, header {num_header_bytes}")
            header = json.loads(file.read(num_header_bytes))
        tensors = sorted(
            (_tensor(name, entry) for name, entry in header.items() if name != "__metadata__"),
            key=lambda tensor: (tensor.start, tensor.end),
        )
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read ({error}): nothing was loaded or published") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its header is malformed ({error!r})") from error
    _check_layout(path, tensors, size - 8 - num_header_bytes)
    return tuple(tensors)


def folder_tensors(folder: Path) -> tuple[TensorInfo, ...]:
    """The tensors of all safetensors files of a folder."""
    return tuple(tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_header(path))


def _tensor(name: str, entry: dict[str, Any]) -> TensorInfo:
    start, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError(f"{name}: shape {shape} at {start}..{end}")
    if end - start != math.prod(shape) * ITEM_BYTES[entry["dtype"]]:
        raise ValueError(f"{name}: {end - start} bytes for shape {shape} of {entry['dtype']}")
    return TensorInfo(name=name, dtype=entry["dtype"], shape=tuple(shape), start=start, end=end)


def _check_layout(path: Path, tensors: list[TensorInfo], num_data_bytes: int) -> None:
    if not tensors:
        raise _damaged(path, "it holds no tensor")
    end = tensors[-1].end
    if end > num_data_bytes:
        raise _damaged(path, f"it is truncated: {num_data_bytes} bytes of weights where the header names {end}")
    if end < num_data_bytes or tensors[0].start or any(a.end != b.start for a, b in pairwise(tensors)):
        raise _damaged(path, "its header does not cover the file's bytes one by one")


def _damaged(path: Path, what: str) -> NotACheckpointError:
    return NotACheckpointError(f"{path} is damaged, {what}; nothing was loaded or published: copy or save it again")
