"""The keys and values of all running requests: one row each, in two tensors per layer. Engine thread only.

Shapes: R rows, L tokens a row, K key-value heads, D head size. The requests that decode hold rows 0..B-1 without a
hole, so that attention reads the view `[:B]`: a row that leaves is filled by the last one, a row that joins changes
places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from server.engine_spec import DEFAULT_KV_BYTES

MAX_ROWS = 64
# Never more of what is free on the GPU: the next version's engine must find room beside this one.
CUDA_SHARE_OF_FREE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """Of the rows: `num_rows` of `max_len_tokens` each."""

    num_layers: int
    num_rows: int
    max_len_tokens: int
    num_kv_heads: int
    head_dim: int


class Slots:
    """Rows of keys and values. Untouched rows take no memory: zeroed pages come when they are first written."""

    def __init__(self, shape: SlotShape, *, dtype: torch.dtype, device: str) -> None:
        self.shape = shape
        size = (shape.num_rows, shape.max_len_tokens, shape.num_kv_heads, shape.head_dim)
        self.keys_RLKD = [_zeros(size, dtype, device) for _ in range(shape.num_layers)]
        self.values_RLKD = [_zeros(size, dtype, device) for _ in range(shape.num_layers)]

    def write(self, layer: int, places_T: torch.Tensor, keys_TKD: torch.Tensor, values_TKD: torch.Tensor) -> None:
        """Put the keys and values of T tokens at flat places `row * L + position`."""
        for whole, new in ((self.keys_RLKD[layer], keys_TKD), (self.values_RLKD[layer], values_TKD)):
            whole.view(-1, *whole.shape[2:]).index_copy_(0, places_T, new)

    def move(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of a row over another row."""
        for whole in (*self.keys_RLKD, *self.values_RLKD):
            whole[target, :num_tokens] = whole[source, :num_tokens]

    def swap(self, one: int, other: int, num_tokens: int) -> None:
        """Let two rows change places, as far as either is filled."""
        for whole in (*self.keys_RLKD, *self.values_RLKD):
            kept = whole[one, :num_tokens].clone()
            whole[one, :num_tokens] = whole[other, :num_tokens]
            whole[other, :num_tokens] = kept

    def clear(self, row: int, num_tokens: int | None = None) -> None:
        """Zero the first tokens of a row, or all: what is not finite would reach its next owner, as 0 × NaN is NaN."""
        for whole in (*self.keys_RLKD, *self.values_RLKD):
            whole[row, :num_tokens].zero_()

    @property
    def num_tokens(self) -> int:
        """Tokens that fit, over all rows."""
        return self.shape.num_rows * self.shape.max_len_tokens


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Zeros that take memory on CPU only where they are written: torch's own are written at once."""
    if device != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)


def shape_of(model: Any, *, max_len_tokens: int, device: str, budget_bytes: int = 0) -> SlotShape:
    """As many rows as the budget allows, at least one and at most `MAX_ROWS`.

    Args:
        budget_bytes: 0: what the device suggests.
    """
    config = model.config.get_text_config()
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    item_bytes = next(model.parameters()).element_size()
    row_bytes = 2 * config.num_hidden_layers * max_len_tokens * num_kv_heads * head_dim * item_bytes
    budget_bytes = budget_bytes or _default_budget(device)
    return SlotShape(
        num_layers=config.num_hidden_layers,
        num_rows=max(1, min(MAX_ROWS, budget_bytes // row_bytes)),
        max_len_tokens=max_len_tokens,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
    )


def _default_budget(device: str) -> int:
    if device != "cuda":
        return DEFAULT_KV_BYTES[device]
    free_bytes, _ = torch.cuda.mem_get_info()
    return min(DEFAULT_KV_BYTES[device], int(free_bytes * CUDA_SHARE_OF_FREE))
