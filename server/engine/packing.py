"""One forward pass over many requests: the next token of each that decodes, then pieces of prompts, packed in a row.

Pure but for the tensors. T tokens in the pass, B of them of requests that decode (rows 0..B-1, one token each).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from server.engine.row_groups import RowGroup, grouped
from server.engine.short_pieces import Segment, ShortPieces, read_together


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Part of one request's tokens in a pass.

    Attributes:
        row: Where its keys and values lie.
        past: Tokens of it that are there already.
        num_logits: Of how many of its last tokens the logits are wanted.
    """

    row: int
    past: int
    tokens: tuple[int, ...]
    num_logits: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """What the model and the attention function are given.

    Attributes:
        ids_1T, positions_1T: Filled up at the end to a size that the caller chose; nothing is stored of what fills up.
        rows_T: Of the tokens without those that fill up.
        num_decoding: B.
        lengths_B: Tokens of each decoding row, the new one counted.
        groups: All decoding rows, cut into those that are read together.
        short_pieces: Pieces of prompts that are read together.
        segments: Those that are read one by one.
        kept_N: Which tokens' logits are wanted; one at least.
        logits_of: How many rows of logits each piece gets, in the order of the pieces.
    """

    ids_1T: torch.Tensor
    positions_1T: torch.Tensor
    rows_T: torch.Tensor
    num_decoding: int
    lengths_B: torch.Tensor
    groups: tuple[RowGroup, ...]
    short_pieces: tuple[ShortPieces, ...]
    segments: tuple[Segment, ...]
    kept_N: torch.Tensor
    logits_of: tuple[int, ...]


def as_many(number: int) -> int:
    """The same number."""
    return number


def pack(
    pieces: Sequence[Piece],
    *,
    num_decoding: int,
    call_places: int,
    device: str,
    size_for: Callable[[int], int] = as_many,
) -> Pack:
    """Lay pieces out for one pass; the first `num_decoding` are single tokens of rows 0..B-1, in that order.

    Args:
        call_places: What one more call of attention costs, as `grouped` wants it.
        size_for: To how many tokens so many are filled up, and to how many rows of logits.
    """
    tokens: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    kept: list[int] = []
    segments: list[Segment] = []
    for number, piece in enumerate(pieces):
        start, end = len(tokens), len(tokens) + len(piece.tokens)
        tokens += piece.tokens
        positions += range(piece.past, piece.past + len(piece.tokens))
        rows += [piece.row] * len(piece.tokens)
        kept += range(end - piece.num_logits, end)
        if number >= num_decoding:
            segments.append(Segment(row=piece.row, past=piece.past, start=start, end=end))
    kept = kept or [len(tokens) - 1]  # a model computes the logits of all tokens when it is asked for none
    num_more = size_for(len(tokens)) - len(tokens)
    together, alone = read_together(segments, call_places=call_places, device=device)
    lengths = [piece.past + 1 for piece in pieces[:num_decoding]]
    return Pack(
        ids_1T=torch.tensor([tokens + tokens[-1:] * num_more], device=device),
        positions_1T=torch.tensor([positions + positions[-1:] * num_more], device=device),
        rows_T=torch.tensor(rows, device=device),
        num_decoding=num_decoding,
        lengths_B=torch.tensor(lengths, device=device),
        groups=grouped(lengths, call_places=call_places),
        short_pieces=together,
        segments=alone,
        kept_N=torch.tensor(kept + kept[-1:] * (size_for(len(kept)) - len(kept)), device=device),
        logits_of=tuple(piece.num_logits for piece in pieces),
    )
