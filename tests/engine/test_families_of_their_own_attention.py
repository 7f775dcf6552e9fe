"""Families that cannot be batched, and of which transformers has no SDPA: served one at a time, as by `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, Qwen2MoeConfig

from server.engine.asks import Ask, TokenMade
from server.engine.choosing import runner_of
from server.engine.generation import OneAtATime
from tests.engine.batches import GREEDY, MAX_LEN, VOCABULARY, around

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 16,
    "max_position_embeddings": MAX_LEN,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
CONFIGS = {
    "gemma2": lambda: Gemma2Config(**SIZES),
    "gpt_oss": lambda: GptOssConfig(num_local_experts=4, num_experts_per_tok=2, **SIZES),
    # Its window stands in the mask alone, and is longer than the prompts of the proof.
    "qwen2_moe": lambda: Qwen2MoeConfig(
        use_sliding_window=True,
        max_window_layers=1,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        **SIZES,
    ),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_it_gives_the_tokens_of_generate(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    prompt_ids = tuple(range(5, 40))
    ids = torch.tensor([prompt_ids])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    runner = runner_of(around(model))
    running = runner.join(Ask(prompt_ids=prompt_ids, max_new_tokens=20, sampling=GREEDY))
    events = []
    while not events or type(events[-1]).__name__ not in ("Finished", "Failed"):
        runner.step()
        events += running.events

    assert isinstance(runner, OneAtATime)
    assert [event.token_id for event in events if isinstance(event, TokenMade)] == expected[0, 35:].tolist()
