from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine import attention
from server.engine.attention import Pass, packed_attention
from server.engine.packing import Piece, pack
from server.engine.row_groups import grouped
from server.engine.slots import Slots, SlotShape

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROW_LEN = 6, 2, 8, 32
SHAPE = SlotShape(
    num_layers=1,
    num_places=9 * ROW_LEN,
    max_len_tokens=ROW_LEN,
    num_kv_heads=NUM_KV_HEADS,
    head_dim=HEAD_DIM,
    min_row_tokens=ROW_LEN,
)
NEVER = 10**9

lengths_of_rows = st.lists(st.integers(1, ROW_LEN), min_size=1, max_size=9)


@given(lengths_of_rows, st.integers(0, 40))
def test_groups_hold_all_rows_in_order_and_know_their_lengths(lengths: list[int], call_places: int) -> None:
    groups = grouped(lengths, call_places=call_places)

    assert [row for group in groups for row in range(group.first, group.end)] == list(range(len(lengths)))
    for group in groups:
        own = lengths[group.first : group.end]
        assert (group.shortest, group.longest) == (min(own), max(own))


def all_cuts(lengths: list[int]) -> Iterator[list[list[int]]]:
    for inside in product((False, True), repeat=len(lengths) - 1):
        edges = [0, *(row for row, cuts in enumerate(inside, start=1) if cuts), len(lengths)]
        yield [lengths[first:end] for first, end in pairwise(edges)]


@given(lengths_of_rows, st.integers(0, 40))
def test_no_other_cuts_cost_less(lengths: list[int], call_places: int) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(len(own) * max(own) + call_places for own in groups)

    mine = [lengths[group.first : group.end] for group in grouped(lengths, call_places=call_places)]

    assert cost(mine) == min(cost(groups) for groups in all_cuts(lengths))


@given(lengths_of_rows)
def test_where_calls_cost_nothing_no_place_is_read_in_vain(lengths: list[int]) -> None:
    assert all(group.shortest == group.longest for group in grouped(lengths, call_places=0))


def test_a_few_long_rows_among_short_ones_are_read_by_themselves() -> None:
    lengths = [100 + row for row in range(60)]
    lengths[20] = lengths[40] = 4000
    groups = grouped(lengths, call_places=500)
    read = sum((group.end - group.first) * group.longest for group in groups)

    assert {(20, 21), (40, 41)} < {(group.first, group.end) for group in groups}
    assert read < 1.2 * sum(lengths)


@pytest.mark.parametrize("lengths", [[], [7], [90, 100, 80, 95]])
def test_rows_of_like_length_are_read_together(lengths: list[int]) -> None:
    assert len(grouped(lengths, call_places=100)) == min(1, len(lengths))


def attended(
    rows: Slots,
    qkv: Sequence[torch.Tensor],
    lengths: list[int],
    window: int | None,
    *,
    call_places: int,
    min_pairs: int,
) -> torch.Tensor:
    """One decoding token of each row, through the attention function."""
    pieces = [Piece(row=row, past=length - 1, tokens=(1,)) for row, length in enumerate(lengths)]
    packed = pack(pieces, num_decoding=len(lengths), call_places=call_places, device="cpu")
    module, relay = SimpleNamespace(layer_idx=0), Pass(pack=packed, slots=rows)
    with patch.object(attention, "MIN_PLAIN_PAIRS", min_pairs):
        return packed_attention(module, *qkv, None, relay=relay, sliding_window=window)[0][0]


@settings(deadline=None)
@given(lengths_of_rows, st.sampled_from([None, 1, 5]), st.sampled_from([0, NEVER]))
def test_rows_attend_in_groups_as_they_do_in_one_call_and_as_the_formula_says(
    lengths: list[int], window: int | None, min_pairs: int
) -> None:
    dice = torch.Generator().manual_seed(0)
    rows = Slots(SHAPE, dtype=torch.float32, device="cpu")
    for whole in (rows.keys_RKLD[0], rows.values_RKLD[0]):
        whole.normal_(generator=dice)
    sizes = ((1, num_heads, len(lengths), HEAD_DIM) for num_heads in (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS))
    queries, keys, values = qkv = [torch.randn(size, generator=dice) for size in sizes]
    stored = [(rows.keys_RKLD[0].clone(), keys), (rows.values_RKLD[0].clone(), values)]
    in_groups = attended(rows, qkv, lengths, window, call_places=0, min_pairs=min_pairs)
    in_one_call = attended(rows, qkv, lengths, window, call_places=NEVER, min_pairs=min_pairs)

    torch.testing.assert_close(in_groups, in_one_call)
    for row, length in enumerate(lengths):
        first = max(0, length - window) if window else 0
        for head in range(NUM_HEADS):
            of = head * NUM_KV_HEADS // NUM_HEADS
            keys_LD, values_LD = (
                torch.cat((old[row, of, first : length - 1], new[0, of, row][None])) for old, new in stored
            )
            shares_L = (keys_LD @ queries[0, head, row] / HEAD_DIM**0.5).softmax(0)
            torch.testing.assert_close(in_groups[row, head], shares_L @ values_LD, rtol=1e-4, atol=1e-5)
