"""The keys and values of all running requests: one row each, in two tensors per layer. Engine thread only.

Shapes: P places in all, R rows of L places each (R × L ≤ P), K key-value heads, D head size, T tokens. The requests
that decode hold rows 0..B-1 without a hole, so that attention reads the view `[:B]`: a row that leaves is filled by the
last one, a row that joins changes places. Within a row each head's places lie together, the way attention reads them.
Rows are as long as the longest request that runs needs: many short ones or a few long ones share the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from server.engine_spec import DEFAULT_KV_BYTES

MAX_ROWS = 64
MIN_ROW_TOKENS = 64
# Never more of what is free on the GPU: the next version's engine must find room beside this one.
CUDA_SHARE_OF_FREE = 0.5

# Keys and values that attention reads in the time of one more call. CPU: a call takes 30 us, and reads 14 GB/s;
# CUDA's is a guess.
CALL_BYTES = {"cpu": 512 * 1024, "cuda": 32 * 1024 * 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """Room for keys and values.

    Attributes:
        num_places: Tokens that fit, over all rows; at least `max_len_tokens`.
        max_len_tokens: Of the longest row.
        max_rows: How many requests may run at once, however short.
        min_row_tokens: Of the shortest row, however short the requests.
    """

    num_layers: int
    num_places: int
    max_len_tokens: int
    num_kv_heads: int
    head_dim: int
    max_rows: int = MAX_ROWS
    min_row_tokens: int = MIN_ROW_TOKENS

    def num_rows(self, row_len_tokens: int) -> int:
        """How many rows of that length there are."""
        return min(self.max_rows, self.num_places // row_len_tokens)

    def row_len_for(self, longest_tokens: int) -> int:
        """The row length for requests of up to so many tokens: a power of two, so that it seldom changes."""
        return min(self.max_len_tokens, max(self.min_row_tokens, 1 << (longest_tokens - 1).bit_length()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The first tokens of a row that go to another row."""

    source: int
    target: int
    num_tokens: int


class Slots:
    """Rows of keys and values. Untouched places take no memory: zeroed pages come when they are first written."""

    def __init__(self, shape: SlotShape, *, dtype: torch.dtype, device: str) -> None:
        self.shape = shape
        size = (shape.num_places, shape.num_kv_heads, shape.head_dim)
        self._keys_PKD = [_zeros(size, dtype, device) for _ in range(shape.num_layers)]
        self._values_PKD = [_zeros(size, dtype, device) for _ in range(shape.num_layers)]
        self.row_len_tokens = shape.row_len_for(1)
        self.keys_RKLD = [self._as_rows(whole) for whole in self._keys_PKD]
        self.values_RKLD = [self._as_rows(whole) for whole in self._values_PKD]

    @property
    def num_rows(self) -> int:
        return self.shape.num_rows(self.row_len_tokens)

    def arrange(self, row_len_tokens: int, removals: Sequence[Removal]) -> None:
        """Make rows of another length; only what `removals` name is kept. Its time is that of copying those tokens."""
        self.row_len_tokens = row_len_tokens
        for places, rows in ((self._keys_PKD, self.keys_RKLD), (self._values_PKD, self.values_RKLD)):
            for layer, whole_PKD in enumerate(places):
                kept = [rows[layer][one.source, :, : one.num_tokens].clone() for one in removals]
                rows[layer] = self._as_rows(whole_PKD)
                for one, tokens_KTD in zip(removals, kept, strict=True):
                    rows[layer][one.target, :, : one.num_tokens] = tokens_KTD

    def _as_rows(self, whole_PKD: torch.Tensor) -> torch.Tensor:
        num_rows, (_, num_heads, head_dim) = self.num_rows, whole_PKD.shape
        return whole_PKD[: num_rows * self.row_len_tokens].view(num_rows, num_heads, self.row_len_tokens, head_dim)

    def places(self, rows_T: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        """Where `write` puts T tokens: for each head and token its place among those of all rows and heads."""
        heads_K1 = torch.arange(self.shape.num_kv_heads, device=rows_T.device)[:, None]
        return (rows_T * self.shape.num_kv_heads + heads_K1) * self.row_len_tokens + positions_T

    @property
    def call_places(self) -> int:
        """How many places one layer's attention reads in the time that one more call of it takes."""
        keys = self._keys_PKD[0]
        return CALL_BYTES[keys.device.type] // (2 * keys.shape[1] * keys.shape[2] * keys.element_size())

    def write(self, layer: int, places_KT: torch.Tensor, keys_KTD: torch.Tensor, values_KTD: torch.Tensor) -> None:
        """Put the keys and values of T tokens at their `places`."""
        for whole, new in ((self.keys_RKLD[layer], keys_KTD), (self.values_RKLD[layer], values_KTD)):
            head_dim = whole.shape[-1]
            whole.view(-1, head_dim).index_copy_(0, places_KT.view(-1), new.reshape(-1, head_dim))

    def move(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of a row over another row."""
        for whole in (*self.keys_RKLD, *self.values_RKLD):
            whole[target, :, :num_tokens] = whole[source, :, :num_tokens]

    def swap(self, one: int, other: int, num_tokens: int) -> None:
        """Let two rows change places, as far as either is filled."""
        for whole in (*self.keys_RKLD, *self.values_RKLD):
            kept = whole[one, :, :num_tokens].clone()
            whole[one, :, :num_tokens] = whole[other, :, :num_tokens]
            whole[other, :, :num_tokens] = kept

    def clear(self, row: int, num_tokens: int | None = None) -> None:
        """Zero the first tokens of a row, or all: what is not finite would reach its next owner, as 0 × NaN is NaN."""
        for whole in (*self.keys_RKLD, *self.values_RKLD):
            whole[row, :, :num_tokens].zero_()


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Zeros that take memory on CPU only where they are written: torch's own are written at once."""
    if device != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(size)


def shape_of(model: Any, *, max_len_tokens: int, device: str, budget_bytes: int = 0) -> SlotShape:
    """As many places as the budget allows: at least one row of the greatest length, at most `MAX_ROWS` of them.

    Args:
        budget_bytes: 0: what the device suggests.
    """
    config = model.config.get_text_config()
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    item_bytes = next(model.parameters()).element_size()
    place_bytes = 2 * config.num_hidden_layers * num_kv_heads * head_dim * item_bytes
    num_places = (budget_bytes or _default_budget(device)) // place_bytes
    return SlotShape(
        num_layers=config.num_hidden_layers,
        num_places=max(max_len_tokens, min(MAX_ROWS * max_len_tokens, num_places)),
        max_len_tokens=max_len_tokens,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
    )


def _default_budget(device: str) -> int:
    if device != "cuda":
        return DEFAULT_KV_BYTES[device]
    free_bytes, _ = torch.cuda.mem_get_info()
    return min(DEFAULT_KV_BYTES[device], int(free_bytes * CUDA_SHARE_OF_FREE))
