"""Short pieces of prompts, read together: a call of attention takes longer to begin than to read one of them.

Their keys and values are gathered first, since rows that are being read lie anywhere. Shapes: N pieces of at most S
tokens each, M tokens in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from server.engine.row_groups import grouped

# Longer pieces are worth a call of their own, and the others are filled up to the longest.
MAX_PIECE_TOKENS = 16
# Matrices of odd widths take up to four times as long on CPU.
PLACES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a prompt within the pass: tokens `start`..`end` of T belong to `row`, after `past` earlier ones."""

    row: int
    past: int
    start: int
    end: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def total(self) -> int:
        """Tokens of its row, the piece counted."""
        return self.past + self.num_tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShortPieces:
    """Pieces that are read in one call.

    Attributes:
        rows_N: Their rows.
        pasts_N: Tokens that were in each row before.
        tokens_NS: Which tokens of the pass they are; a shorter piece repeats its last.
        own_M: Which of those N × S are no repetitions.
        longest: The greatest total of a row, rounded up; more than some rows have.
    """

    rows_N: torch.Tensor
    pasts_N: torch.Tensor
    tokens_NS: torch.Tensor
    own_M: torch.Tensor
    longest: int


def read_together(
    segments: Sequence[Segment], *, call_places: int, device: str
) -> tuple[tuple[ShortPieces, ...], tuple[Segment, ...]]:
    """Those that are read in one call each, and the rest, which is read one by one.

    Args:
        call_places: What one more call of attention costs, as `grouped` wants it.
    """
    short = [one for one in segments if one.num_tokens <= MAX_PIECE_TOKENS and 2 * one.total <= call_places]
    short.sort(key=lambda one: one.total)
    groups = grouped([one.total for one in short], call_places=call_places)
    several = [short[group.first : group.end] for group in groups if group.end - group.first > 1]
    taken = set(chain.from_iterable(several))
    return (
        tuple(_short_pieces(own, device) for own in several),
        tuple(one for one in segments if one not in taken),
    )


def _short_pieces(own: Sequence[Segment], device: str) -> ShortPieces:
    most = max(one.num_tokens for one in own)
    tokens = [[min(one.start + place, one.end - 1) for place in range(most)] for one in own]
    kept = [number * most + place for number, one in enumerate(own) for place in range(one.num_tokens)]
    return ShortPieces(
        rows_N=torch.tensor([one.row for one in own], device=device),
        pasts_N=torch.tensor([one.past for one in own], device=device),
        tokens_NS=torch.tensor(tokens, device=device),
        own_M=torch.tensor(kept, device=device),
        longest=-(-max(one.total for one in own) // PLACES_AT_ONCE) * PLACES_AT_ONCE,
    )
