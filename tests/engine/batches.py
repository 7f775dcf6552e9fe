"""Tiny models whose answers vary, batches around them, and `generate` to compare with."""

from __future__ import annotations

import dataclasses
import random
from functools import cache
from typing import Any, cast

import torch
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from server.engine import slots
from server.engine.asks import Ask, Failed, Finished, Sampling
from server.engine.attention import install
from server.engine.batching import Batch
from server.engine.loading import LoadedModel
from server.engine.sequence import Running
from server.engine.slots import Slots
from server.engine.token_texts import TokenTexts

VOCABULARY, MAX_LEN = 300, 96
GREEDY = Sampling(temperature=0)
NEAR_TIE = 1e-4
FAMILIES = ("qwen3", "llama", "gpt2", "mistral")
WINDOW = 7


def new_model(family: str) -> Any:
    """A tiny model with large random weights, so that its answers vary."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None}
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=MAX_LEN, **common)).eval()
    common |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    common |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": MAX_LEN}
    if family == "mistral":
        return MistralForCausalLM(MistralConfig(sliding_window=WINDOW, **common)).eval()
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**common)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**common)).eval()


def around(model: Any) -> LoadedModel:
    return LoadedModel(
        model=model,
        tokenizer=None,
        token_texts=cast("TokenTexts", None),
        device="cpu",
        dtype="float32",
        eos_ids=frozenset(),
        vocab_size=VOCABULARY,
        num_parameters=0,
        max_model_len_tokens=MAX_LEN,
        keeps_logits=True,
    )


@cache
def plain(family: str) -> Any:
    torch.set_num_threads(1)
    return new_model(family)


@cache
def packed(family: str) -> LoadedModel:
    loaded = around(new_model(family))
    install(loaded.model)
    return loaded


def a_batch(family: str, num_rows: int, *, max_rows: int = slots.MAX_ROWS) -> Batch:
    loaded = packed(family)
    shape = slots.shape_of(loaded.model, max_len_tokens=MAX_LEN, device="cpu")
    shape = dataclasses.replace(shape, num_places=num_rows * MAX_LEN, max_rows=max_rows, min_row_tokens=8)
    return Batch(loaded, Slots(shape, dtype=torch.float32, device="cpu"))


@cache
def alone(family: str, prompt: tuple[int, ...], number: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """`generate`'s own tokens, and how far its two best logits lay apart at each."""
    if number == 0:
        return (), ()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        answer = plain(family).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=number,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = [step[0].topk(2).values for step in answer.logits]
    return tuple(answer.sequences[0, len(prompt) :].tolist()), tuple(float(two[0] - two[1]) for two in best)


def assert_equal_but_for_ties(family: str, ask: Ask, made: list[int]) -> None:
    tokens, gaps = alone(family, ask.prompt_ids, ask.max_new_tokens)
    for mine, theirs, gap in zip(made, tokens, gaps, strict=False):
        if mine != theirs:
            assert gap < NEAR_TIE, (family, made, tokens)
            return


def run(batch: Batch, wanted: list[Ask], dice: random.Random, *, leave_early: bool = False) -> list[Running]:
    """All of `wanted`, arriving and, if so wished, leaving at random; each as it ended."""
    waiting, live, ended = list(wanted), list[Running](), list[Running]()
    while waiting or live:
        while waiting and batch.has_room(waiting[0]) and dice.random() < 0.6:
            live.append(batch.join(waiting.pop(0)))
        if leave_early and live and dice.random() < 0.15:
            gone = live.pop(dice.randrange(len(live)))
            batch.leave(gone)
            ended.append(gone)
        for running in batch.step():
            if running.events and isinstance(running.events[-1], Finished | Failed):
                live.remove(running)
                ended.append(running)
    return ended


# Prompts of one seed begin alike.
asks = st.builds(
    lambda seed, length, number: Ask(
        prompt_ids=tuple(random.Random(seed).randrange(VOCABULARY) for _ in range(length)),
        max_new_tokens=number,
        sampling=GREEDY,
    ),
    st.integers(0, 5),
    st.sampled_from([1, 2, 5, 17, 40, 60]),
    st.sampled_from([0, 1, 3, 12, 30]),
)
