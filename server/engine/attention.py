"""Attention over packed requests: one function that transformers' models call in place of their own.

Shapes: T tokens of the pass, H heads, K key-value heads (each for G = H/K heads), D head size, B decoding rows, L
places. The model's own code computes queries, keys, values and rotary positions; this writes keys and values into their
rows and lets each token see its own request only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from server.engine.packing import Pack
from server.engine.row_groups import RowGroup
from server.engine.short_pieces import Segment, ShortPieces
from server.engine.slots import Slots

NAME = "relay_packed"
# Rows times heads from which on plain operations are faster on CPU; for fewer they only begin more slowly.
MIN_PLAIN_PAIRS = 32
# Keywords that change what attention computes and that this function does not do: a model that passes one is refused.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask", "score_mod")


class UnsupportedAttentionError(Exception):
    """The model's attention is of another kind than this engine batches."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What the attention function needs beside the tensors; models hand it down as the keyword `relay`.

    What all layers need is made once, when the first of them asks.
    """

    pack: Pack
    slots: Slots
    _masks: dict[tuple[RowGroup | Segment | ShortPieces, int | None], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def places_KT(self) -> torch.Tensor:
        rows_T = self.pack.rows_T
        return self.slots.places(rows_T, self.pack.positions_1T[0, : len(rows_T)])

    def mask(self, of: RowGroup | Segment | ShortPieces, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What is added to the scores: 0 where a token may look, else minus infinity."""
        if (of, window) not in self._masks:
            lengths_B = self.pack.lengths_B
            if isinstance(of, RowGroup):
                seen = _seen_by_rows(lengths_B[of.first : of.end], of.longest, window)[:, None, None]
            elif isinstance(of, ShortPieces):
                seen = _seen_by_pieces(of, min(of.longest, self.slots.row_len_tokens), window)[:, None]
            else:
                seen = _seen_by_prompt(of, window, lengths_B.device)
            self._masks[of, window] = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -math.inf)
        return self._masks[of, window]


def packed_attention(
    module: Any,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    relay: Pass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer; the signature is that of transformers' `AttentionInterface`.

    Raises:
        UnsupportedAttentionError: The model wants what this function does not do.
    """
    for name in _UNKNOWN:
        if others.get(name) is not None:
            raise UnsupportedAttentionError(f"its attention takes {name}")
    slots, pack = relay.slots, relay.pack
    layer = module.layer_idx
    num_tokens = len(pack.rows_T)
    slots.write(layer, relay.places_KT, key_1KTD[0, :, :num_tokens], value_1KTD[0, :, :num_tokens])
    output_THD = query_1HTD.new_empty(query_1HTD.shape[2], query_1HTD.shape[1], query_1HTD.shape[3])
    output_THD[num_tokens:] = 0  # what fills the pass up must not be what lay in memory: it may be NaN
    for group in pack.groups:
        query_HBD = query_1HTD[0, :, group.first : group.end]
        output_THD[group.first : group.end] = _decode(query_HBD, group, relay, layer, scaling, sliding_window)
    for pieces in pack.short_pieces:
        own_M = pieces.tokens_NS.view(-1)[pieces.own_M]
        output_THD[own_M] = _read_together(query_1HTD[0], pieces, relay, layer, scaling, sliding_window)
    for segment in pack.segments:
        query_HSD = query_1HTD[0, :, segment.start : segment.end]
        output_THD[segment.start : segment.end] = _read(query_HSD, segment, relay, layer, scaling, sliding_window)
    return output_THD[None], None


def _decode(
    query_HBD: torch.Tensor, group: RowGroup, relay: Pass, layer: int, scaling: float | None, window: int | None
) -> torch.Tensor:
    """One token of each row of the group, all in one call; the heads that share keys stand in the place of tokens."""
    num_heads, num_rows, head_dim = query_HBD.shape
    keys_BKLD = relay.slots.keys_RKLD[layer][group.first : group.end, :, : group.longest]
    values_BKLD = relay.slots.values_RKLD[layer][group.first : group.end, :, : group.longest]
    query_BKGD = query_HBD.transpose(0, 1).reshape(num_rows, keys_BKLD.shape[1], -1, head_dim)
    sees_all = group.shortest == group.longest and (window is None or group.longest <= window)
    mask_B11L = None if sees_all else relay.mask(group, window, query_HBD.dtype)
    out_BKGD = _attend(query_BKGD, keys_BKLD, values_BKLD, mask_B11L, scaling)
    return out_BKGD.reshape(num_rows, num_heads, head_dim)


def _attend(
    query_NKQD: torch.Tensor,
    keys_NKLD: torch.Tensor,
    values_NKLD: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of Q queries in each of N × K places; `mask` is added to its scores, whatever it is broadcast from.

    On CPU three plain operations do it: of few queries each torch's own function takes up to four times as long.
    """
    is_worth_it = query_NKQD.shape[0] * query_NKQD.shape[1] >= MIN_PLAIN_PAIRS
    if query_NKQD.device.type != "cpu" or query_NKQD.dtype != torch.float32 or not is_worth_it:
        return scaled_dot_product_attention(query_NKQD, keys_NKLD, values_NKLD, attn_mask=mask, scale=scaling)
    scale = query_NKQD.shape[-1] ** -0.5 if scaling is None else scaling
    nothing = query_NKQD.new_empty(1, 1, 1)
    query_PQD, keys_PDL = query_NKQD.flatten(0, 1), keys_NKLD.flatten(0, 1).transpose(1, 2)
    scores_PQL = torch.baddbmm(nothing, query_PQD, keys_PDL, beta=0, alpha=scale)
    if mask is not None:
        scores_PQL.view(*query_NKQD.shape[:3], -1).add_(mask)
    return torch.bmm(scores_PQL.softmax(-1), values_NKLD.flatten(0, 1)).view_as(query_NKQD)


def _read(
    query_HSD: torch.Tensor, segment: Segment, relay: Pass, layer: int, scaling: float | None, window: int | None
) -> torch.Tensor:
    """A piece of a prompt: its tokens see what is before them in their row."""
    total = segment.past + query_HSD.shape[1]
    keys_1KLD = relay.slots.keys_RKLD[layer][segment.row : segment.row + 1, :, :total]
    values_1KLD = relay.slots.values_RKLD[layer][segment.row : segment.row + 1, :, :total]
    is_plain = segment.past == 0 and (window is None or total <= window)
    mask_SL = None if is_plain else relay.mask(segment, window, query_HSD.dtype)
    out_1HSD = scaled_dot_product_attention(
        query_HSD[None], keys_1KLD, values_1KLD, attn_mask=mask_SL, is_causal=is_plain, scale=scaling, enable_gqa=True
    )
    return out_1HSD[0].transpose(0, 1)


def _read_together(
    query_HTD: torch.Tensor, pieces: ShortPieces, relay: Pass, layer: int, scaling: float | None, window: int | None
) -> torch.Tensor:
    """Short pieces of prompts in one call, heads that share keys folded; of the result only what is no repetition."""
    keys_NKLD = relay.slots.keys_RKLD[layer][:, :, : pieces.longest].index_select(0, pieces.rows_N)
    values_NKLD = relay.slots.values_RKLD[layer][:, :, : pieces.longest].index_select(0, pieces.rows_N)
    num_pieces, num_at_most = pieces.tokens_NS.shape
    num_heads, _, head_dim = query_HTD.shape
    query_NHSD = query_HTD[:, pieces.tokens_NS].transpose(0, 1)
    query_NKQD = query_NHSD.reshape(num_pieces, keys_NKLD.shape[1], -1, head_dim)
    num_folded = query_NKQD.shape[2] // num_at_most
    mask_N1QL = relay.mask(pieces, window, query_HTD.dtype).repeat(1, 1, num_folded, 1)
    out_NKQD = _attend(query_NKQD, keys_NKLD, values_NKLD, mask_N1QL, scaling)
    return out_NKQD.view(num_pieces, num_heads, num_at_most, head_dim).transpose(1, 2).flatten(0, 1)[pieces.own_M]


def _seen_by_pieces(pieces: ShortPieces, num_places: int, window: int | None) -> torch.Tensor:
    num_at_most, device = pieces.tokens_NS.shape[1], pieces.tokens_NS.device
    own_NS1 = (pieces.pasts_N[:, None] + torch.arange(num_at_most, device=device))[:, :, None]
    place_11L = torch.arange(num_places, device=device)[None, None]
    seen_NSL = place_11L <= own_NS1
    return seen_NSL if window is None else seen_NSL & (place_11L > own_NS1 - window)


def _seen_by_rows(lengths_B: torch.Tensor, longest: int, window: int | None) -> torch.Tensor:
    place_1L = torch.arange(longest, device=lengths_B.device)[None]
    seen_BL = place_1L < lengths_B[:, None]
    return seen_BL if window is None else seen_BL & (place_1L >= lengths_B[:, None] - window)


def _seen_by_prompt(segment: Segment, window: int | None, device: torch.device) -> torch.Tensor:
    total = segment.past + segment.end - segment.start
    own_S1 = torch.arange(segment.past, total, device=device)[:, None]
    place_1L = torch.arange(total, device=device)[None]
    seen_SL = place_1L <= own_S1
    return seen_SL if window is None else seen_SL & (place_1L > own_S1 - window)


@contextlib.contextmanager
def noted_windows() -> Iterator[set[int | None]]:
    """The sliding windows that layers say in the meantime; None of those that see all."""
    windows: set[int | None] = set()

    def noting(*arguments: Any, **named: Any) -> tuple[torch.Tensor, None]:
        windows.add(named.get("sliding_window"))
        return packed_attention(*arguments, **named)

    AttentionInterface.register(NAME, noting)
    try:
        yield windows
    finally:
        AttentionInterface.register(NAME, packed_attention)


def install(model: Any) -> None:
    """Make `model` call `packed_attention`; every forward pass then needs `relay=Pass(...)`."""
    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
