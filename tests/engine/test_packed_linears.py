"""Weights laid out for oneDNN: the same tokens, few sizes of passes."""

from __future__ import annotations

import dataclasses
import math
import random
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.engine import packed_linear, slots
from server.engine.asks import Ask
from server.engine.attention import Pass, install, packed_attention
from server.engine.batching import Batch
from server.engine.packed_linear import PackedLinear, few_sizes
from server.engine.packing import Piece, as_many, pack
from server.engine.slots import Slots
from tests.engine.batches import GREEDY, MAX_LEN, a_batch, around, assert_equal_but_for_ties, new_model, run


@pytest.fixture
def batch() -> Batch:
    """Of a model whose linear layers are all packed, or none where torch cannot."""
    model = new_model("qwen3")
    with patch.object(packed_linear, "_is_faster", lambda packed, layer: True):
        num_packed = packed_linear.pack_linears(model)
    assert num_packed in (0, 3 * 7 + 1)
    install(model)
    shape = dataclasses.replace(slots.shape_of(model, max_len_tokens=MAX_LEN, device="cpu"), max_rows=5)
    return Batch(around(model), Slots(shape, dtype=torch.float32, device="cpu"))


def asks(number: int) -> list[Ask]:
    dice = random.Random(1)
    prompts = [tuple(dice.randrange(300) for _ in range(dice.randrange(1, 70))) for _ in range(number)]
    return [Ask(prompt_ids=ids, max_new_tokens=dice.randrange(1, 20), sampling=GREEDY) for ids in prompts]


def test_packed_linears_give_the_same_tokens_or_are_left_alone(batch: Batch) -> None:
    for running in run(batch, asks(20), random.Random(2)):
        assert_equal_but_for_ties("qwen3", running.ask, running.made)


def test_packed_layers_meet_few_sizes(batch: Batch) -> None:
    if not packed_linear.has_packed(batch._loaded.model):
        pytest.skip("this build of torch has no packed linear layers")
    met: set[int] = set()
    for layer in batch._loaded.model.modules():
        if isinstance(layer, PackedLinear):
            layer.register_forward_pre_hook(lambda _, given: met.add(given[0].shape[-2]))
    run(batch, asks(40), random.Random(2))

    assert len(met) > 8
    assert met == {few_sizes(size) for size in met}


def test_other_layers_meet_the_tokens_that_there_are() -> None:
    assert a_batch("llama", 2)._size_for is as_many


def test_large_models_are_not_laid_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "MAX_BYTES", 1000)

    assert packed_linear.pack_linears(new_model("llama")) == 0


@given(st.integers(1, 100_000))
def test_few_sizes_are_little_larger_and_few(number: int) -> None:
    size = few_sizes(number)

    assert number <= size <= number * 9 / 8
    assert few_sizes(size) == size
    assert len({few_sizes(one) for one in range(2**9, 2**10)}) <= 9


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "mistral"])
def test_a_pass_that_is_filled_up_gives_the_same_logits_and_stores_nothing_more(family: str) -> None:
    plain, filled = a_batch(family, 4), a_batch(family, 4)
    reading = [Piece(row=row, past=0, tokens=tuple(range(row, row + 6)), num_logits=2) for row in (0, 2)]
    decoding = [Piece(row=0, past=6, tokens=(50,))]
    for pieces, num_decoding in ((reading, 0), (decoding, 1)):
        how = {"num_decoding": num_decoding, "call_places": 1, "device": "cpu"}
        expected_NV = plain.forward(pack(pieces, **how))
        seen_NV = filled.forward(pack(pieces, **how, size_for=lambda number: number + 5))

        torch.testing.assert_close(seen_NV, expected_NV, rtol=1e-4, atol=1e-4)
        for one, other in zip(filled._rows.slots.keys_RKLD, plain._rows.slots.keys_RKLD, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_what_fills_a_pass_up_is_not_what_lay_in_memory() -> None:
    slots_of_4 = a_batch("llama", 4)._rows.slots
    pieces = [Piece(row=0, past=0, tokens=(1, 2)), Piece(row=1, past=0, tokens=(3,))]
    packed = pack(pieces, num_decoding=0, call_places=1, device="cpu", size_for=lambda number: number + 5)
    query, keys, values = (torch.ones(1, heads, 8, 16) for heads in (4, 2, 2))
    relay = Pass(pack=packed, slots=slots_of_4)
    with patch.object(torch.Tensor, "new_empty", lambda like, *size: like.new_full(size, math.nan)):
        output_THD = packed_attention(SimpleNamespace(layer_idx=0), query, keys, values, None, relay=relay)[0][0]

    assert torch.isfinite(output_THD).all()
