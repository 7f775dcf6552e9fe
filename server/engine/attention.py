"""Attention over packed requests: one function that transformers' models call in place of their own.

Shapes: T tokens of the pass, H heads, K key-value heads (each for G = H/K heads), D head size, B decoding rows, L
places. The model's own code computes queries, keys, values and rotary positions; this writes keys and values into their
rows and lets each token see its own request only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from server.engine.packing import Pack, Segment
from server.engine.slots import Slots

NAME = "relay_packed"
# Keywords that change what attention computes and that this function does not do: a model that passes one is refused.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask", "score_mod")


class UnsupportedAttentionError(Exception):
    """The model's attention is of another kind than this engine batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What the attention function needs beside the tensors; models hand it down as the keyword `relay`."""

    pack: Pack
    slots: Slots


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
    slots.write(layer, pack.places_T, key_1KTD[0].transpose(0, 1), value_1KTD[0].transpose(0, 1))
    output_THD = query_1HTD.new_empty(query_1HTD.shape[2], query_1HTD.shape[1], query_1HTD.shape[3])
    num_decoding = pack.num_decoding
    if num_decoding:
        output_THD[:num_decoding] = _decode(query_1HTD[0, :, :num_decoding], relay, layer, scaling, sliding_window)
    for segment in pack.segments:
        query_HSD = query_1HTD[0, :, segment.start : segment.end]
        output_THD[segment.start : segment.end] = _read(query_HSD, segment, slots, layer, scaling, sliding_window)
    return output_THD[None], None


def _decode(
    query_HBD: torch.Tensor, relay: Pass, layer: int, scaling: float | None, window: int | None
) -> torch.Tensor:
    """One token of each of the rows 0..B-1, all in one call; the heads of a group stand in the place of tokens."""
    pack, slots = relay.pack, relay.slots
    num_rows, longest = pack.num_decoding, pack.longest
    num_heads, head_dim = query_HBD.shape[0], query_HBD.shape[2]
    keys_BKLD = slots.keys_RLKD[layer][:num_rows, :longest].transpose(1, 2)
    values_BKLD = slots.values_RLKD[layer][:num_rows, :longest].transpose(1, 2)
    query_BKGD = query_HBD.transpose(0, 1).reshape(num_rows, keys_BKLD.shape[1], -1, head_dim)
    mask_BL = pack.mask_BL
    if window is not None and longest > window:
        seen_BL = torch.arange(longest, device=query_HBD.device)[None] >= pack.lengths_B[:, None] - window
        mask_BL = seen_BL if mask_BL is None else mask_BL & seen_BL
    mask = None if mask_BL is None else mask_BL[:, None, None]
    out_BKGD = scaled_dot_product_attention(query_BKGD, keys_BKLD, values_BKLD, attn_mask=mask, scale=scaling)
    return out_BKGD.reshape(num_rows, num_heads, head_dim)


def _read(
    query_HSD: torch.Tensor, segment: Segment, slots: Slots, layer: int, scaling: float | None, window: int | None
) -> torch.Tensor:
    """A piece of a prompt: its tokens see what is before them in their row."""
    num_tokens, total = query_HSD.shape[1], segment.past + query_HSD.shape[1]
    keys_1KLD = slots.keys_RLKD[layer][segment.row, :total].transpose(0, 1)[None]
    values_1KLD = slots.values_RLKD[layer][segment.row, :total].transpose(0, 1)[None]
    is_plain = segment.past == 0 and (window is None or total <= window)
    mask_SL = None if is_plain else _causal_mask(num_tokens, segment.past, window, query_HSD.device)
    out_1HSD = scaled_dot_product_attention(
        query_HSD[None], keys_1KLD, values_1KLD, attn_mask=mask_SL, is_causal=is_plain, scale=scaling, enable_gqa=True
    )
    return out_1HSD[0].transpose(0, 1)


def _causal_mask(num_tokens: int, past: int, window: int | None, device: torch.device) -> torch.Tensor:
    own_S1 = torch.arange(past, past + num_tokens, device=device)[:, None]
    seen_1L = torch.arange(past + num_tokens, device=device)[None]
    mask_SL = seen_1L <= own_S1
    return mask_SL if window is None else mask_SL & (seen_1L > own_S1 - window)


def install(model: Any) -> None:
    """Make `model` call `packed_attention`; every forward pass then needs `relay=Pass(...)`."""
    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
