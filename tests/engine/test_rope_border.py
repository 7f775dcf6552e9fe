"""Rotary frequencies that depend on the longest text of a pass: neighbours change nothing, all is as by `generate`."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from server.engine import generation
from server.engine.asks import Ask, Event, PromptScored, TokenMade
from server.engine.batching import Batch
from server.engine.choosing import runner_of
from server.engine.generation import OneAtATime, generate
from server.engine.loading import LoadedModel
from server.engine.rope_border import border_of
from tests.engine.batches import GREEDY, MAX_LEN, VOCABULARY, around

BORDER = 32


@pytest.fixture(scope="module")
def phi() -> LoadedModel:
    """Short factors that are plain, long ones that are not: over the border each answer is another."""
    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": BORDER}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0 + 6 * number for number in range(8)]}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Phi3Config(
        vocab_size=VOCABULARY,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LEN,
        original_max_position_embeddings=BORDER,
        rope_parameters=rope,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **sizes,
    )
    return around(Phi3ForCausalLM(config).eval())


def prompt(length: int) -> tuple[int, ...]:
    return tuple(random.Random(length).randrange(1, VOCABULARY) for _ in range(length))


def events_of(loaded: LoadedModel, ask: Ask) -> list[Event]:
    return [event for step in generate(loaded, ask) for event in step]


@pytest.mark.parametrize(("length", "number"), [(3, 12), (3, 60), (BORDER, 8), (BORDER + 1, 8), (50, 20)])
@pytest.mark.parametrize("chunk_tokens", [512, 7])
def test_a_text_that_crosses_the_border_is_that_of_generate(
    phi: LoadedModel, length: int, number: int, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PREFILL_CHUNK_TOKENS", chunk_tokens)
    ids = torch.tensor([prompt(length)])
    expected = phi.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=number, do_sample=False)
    ask = Ask(prompt_ids=prompt(length), max_new_tokens=number, sampling=GREEDY)
    made = [event.token_id for event in events_of(phi, ask) if isinstance(event, TokenMade)]

    assert made == expected[0, length:].tolist()


@pytest.mark.parametrize("length", [BORDER, BORDER + 1, BORDER + 2, 60])
def test_scores_are_those_of_one_pass_over_the_whole_prompt(
    phi: LoadedModel, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "MAX_LOGITS_OF_CHUNK", 16 * VOCABULARY)
    ids = torch.tensor([prompt(length)])
    with torch.inference_mode():
        logprobs = phi.model(input_ids=ids).logits[0].log_softmax(-1)
    expected = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0]
    ask = Ask(prompt_ids=prompt(length), max_new_tokens=0, num_top_logprobs=0, scores_from=1)
    (scored,) = [event for event in events_of(phi, ask) if isinstance(event, PromptScored)]

    assert [score.logprob for score in scored.scores if score] == pytest.approx(expected.tolist(), abs=1e-4)


def test_requests_share_passes_only_below_the_border(phi: LoadedModel) -> None:
    alone = runner_of(phi)
    shared = runner_of(dataclasses.replace(phi, max_model_len_tokens=BORDER))

    assert isinstance(alone, OneAtATime)
    assert f"longer than {BORDER} tokens" in alone.because
    assert isinstance(shared, Batch)


@pytest.mark.parametrize(
    ("parameters", "border"),
    [
        (None, None),
        ({"rope_type": "default"}, None),
        ({"rope_type": "yarn", "original_max_position_embeddings": 8}, None),
        ({"rope_type": "longrope", "original_max_position_embeddings": 8}, 8),
        ({"rope_type": "dynamic"}, 96),
        ({"full": {"rope_type": "longrope", "original_max_position_embeddings": 8}, "sliding": {}}, 8),
    ],
)
def test_what_borders_there_are(parameters: Any, border: int | None) -> None:
    assert border_of(SimpleNamespace(rope_parameters=parameters, max_position_embeddings=96)) == border
