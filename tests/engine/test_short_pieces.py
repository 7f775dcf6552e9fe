"""Short pieces of prompts that are read in one call of attention see what they would see alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine import attention, batching
from server.engine.asks import Ask, PromptScored
from server.engine.attention import Pass, packed_attention
from server.engine.packing import Pack, Piece, pack
from server.engine.short_pieces import MAX_PIECE_TOKENS, Segment, read_together
from server.engine.slots import Slots, SlotShape
from tests.engine.batches import GREEDY, a_batch

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROW_LEN = 6, 2, 8, 36
NUM_ROWS = 9
SHAPE = SlotShape(
    num_layers=1,
    num_places=NUM_ROWS * ROW_LEN,
    max_len_tokens=ROW_LEN,
    num_kv_heads=NUM_KV_HEADS,
    head_dim=HEAD_DIM,
    min_row_tokens=ROW_LEN,
)
NEVER, ALWAYS = 0, 10**9  # a call costs nothing, or more than all else

# Tokens that lie in a row, and those that are read.
parts = st.tuples(st.integers(0, ROW_LEN - 20), st.integers(1, 20))


def segments_of(sizes: list[tuple[int, int]]) -> list[Segment]:
    start, found = 0, []
    for row, (past, number) in enumerate(sizes):
        found.append(Segment(row=row, past=past, start=start, end=start + number))
        start += number
    return found


@given(st.lists(parts, max_size=NUM_ROWS), st.integers(0, 200))
def test_every_piece_is_read_once(sizes: list[tuple[int, int]], call_places: int) -> None:
    segments = segments_of(sizes)
    together, alone = read_together(segments, call_places=call_places, device="cpu")

    read = [token for one in alone for token in range(one.start, one.end)]
    read += [token for one in together for token in one.tokens_NS.view(-1)[one.own_M].tolist()]
    assert sorted(read) == list(range(segments[-1].end if segments else 0))
    assert all(len(one.rows_N) > 1 for one in together)


def test_what_is_long_is_read_alone() -> None:
    sizes = [(0, 4), (3, 5), (0, MAX_PIECE_TOKENS + 1), (60, 4), (2, 4)]
    together, alone = read_together(segments_of(sizes), call_places=100, device="cpu")

    assert [sorted(one.rows_N.tolist()) for one in together] == [[0, 1, 4]]
    assert [one.row for one in alone] == [2, 3]


def attended(slots: Slots, qkv: list[torch.Tensor], packed: Pack, window: int | None, min_pairs: int) -> torch.Tensor:
    module, relay = SimpleNamespace(layer_idx=0), Pass(pack=packed, slots=slots)
    with patch.object(attention, "MIN_PLAIN_PAIRS", min_pairs):
        return packed_attention(module, *qkv, None, relay=relay, sliding_window=window)[0][0]


@settings(deadline=None)
@given(
    st.lists(parts, min_size=2, max_size=NUM_ROWS),
    st.integers(0, 2),
    st.sampled_from([None, 1, 5]),
    st.sampled_from([0, ALWAYS]),
)
def test_pieces_see_together_what_they_see_alone(
    sizes: list[tuple[int, int]], num_decoding: int, window: int | None, min_pairs: int
) -> None:
    dice = torch.Generator().manual_seed(0)
    slots = Slots(SHAPE, dtype=torch.float32, device="cpu")
    for whole in (slots.keys_RKLD[0], slots.values_RKLD[0]):
        whole.normal_(generator=dice)
    pieces = [
        Piece(row=row, past=past, tokens=(1,) * (1 if row < num_decoding else number))
        for row, (past, number) in enumerate(sizes)
    ]
    num_tokens = sum(len(piece.tokens) for piece in pieces)
    heads = (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS)
    qkv = [torch.randn((1, number, num_tokens, HEAD_DIM), generator=dice) for number in heads]
    packs = [pack(pieces, num_decoding=num_decoding, call_places=cost, device="cpu") for cost in (ALWAYS, NEVER)]
    together, alone = (attended(slots, qkv, one, window, min_pairs) for one in packs)

    assert not packs[1].short_pieces
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.fixture
def passes() -> Iterator[list[Pack]]:
    """What each pass of any batch is given."""
    seen: list[Pack] = []

    def keep(pieces: Sequence[Piece], **others: Any) -> Pack:
        seen.append(pack(pieces, **others))
        return seen[-1]

    with patch.object(batching, "pack", keep):
        yield seen


def test_prompts_that_come_together_are_read_in_one_call(passes: list[Pack]) -> None:
    batch = a_batch("llama", 8)
    for first in range(6):
        batch.join(Ask(prompt_ids=(first, 1, 2, 3), max_new_tokens=1, sampling=GREEDY))
    batch.step()

    assert [len(one.rows_N) for one in passes[0].short_pieces] == [6]
    assert passes[0].segments == ()


def test_the_last_token_of_a_prompt_is_not_read_where_nothing_is_made_after_it(passes: list[Pack]) -> None:
    batch = a_batch("llama", 8)
    scored = [
        batch.join(Ask(prompt_ids=ids, max_new_tokens=0, sampling=GREEDY, num_top_logprobs=0, scores_from=1))
        for ids in ((5, 6, 7, 8), (5,))
    ]
    batch.step()

    assert [one.num_stored for one in scored] == [3, 1]
    assert passes[0].ids_1T.tolist() == [[5, 6, 7, 5]]
    counts = [len(event.scores) for one in scored for event in one.events if isinstance(event, PromptScored)]
    assert counts == [3, 0]
