from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from pipeline.demo.world import build_tokenizer
from server.engine import generation
from server.engine.asks import Ask, Event, Finished, PromptScored, Sampling, TokenMade
from server.engine.generation import generate
from server.engine.loading import LoadedModel, LoadOptions, load

GREEDY = Sampling(temperature=0)


def events_of(loaded: LoadedModel, ask: Ask) -> list[Event]:
    return [event for step in generate(loaded, ask) for event in step]


def tokens_of(loaded: LoadedModel, prompt: Sequence[int], number: int, sampling: Sampling = GREEDY) -> list[int]:
    ask = Ask(prompt_ids=tuple(prompt), max_new_tokens=number, sampling=sampling)
    return [event.token_id for event in events_of(loaded, ask) if isinstance(event, TokenMade)]


def reference(loaded: LoadedModel, prompt: Sequence[int], number: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    answer = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=number, do_sample=False)
    made: list[int] = answer[0, len(prompt) :].tolist()
    return [token_id for token_id in made if token_id not in loaded.eos_ids]


def prompts(loaded: LoadedModel) -> Iterator[list[int]]:
    for number in range(6):
        torch.manual_seed(number)
        yield torch.randint(0, 256, (1 + 9 * number,)).tolist()


def other_architecture(name: str, folder: Path) -> LoadedModel:
    torch.manual_seed(0)
    common = {"vocab_size": 320, "bos_token_id": None, "eos_token_id": 256, "initializer_range": 0.2}
    if name == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **common))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = MistralConfig(num_key_value_heads=2, sliding_window=16, max_position_embeddings=128, **sizes, **common)
        model = MistralForCausalLM(config)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return load(folder, LoadOptions(device="cpu"))


def test_greedy_tokens_are_those_of_generate(loaded: LoadedModel) -> None:
    answers = [(tokens_of(loaded, prompt, 40), reference(loaded, prompt, 40)) for prompt in prompts(loaded)]

    assert all(ours == theirs for ours, theirs in answers)
    assert max(len(set(ours)) for ours, _ in answers) > 5  # or equality would prove little


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_other_architectures_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PREFILL_CHUNK_TOKENS", 20)  # a prompt in pieces, across a sliding window
    other = other_architecture(name, tmp_path)

    for prompt in prompts(other):
        assert tokens_of(other, prompt, 20) == reference(other, prompt, 20)


def test_an_end_token_ends_the_answer_and_is_not_part_of_it(loaded: LoadedModel) -> None:
    made = tokens_of(loaded, [65, 66], 10)
    ending = dataclasses.replace(loaded, eos_ids=frozenset({999, made[4]}))
    last = events_of(ending, Ask(prompt_ids=(65, 66), max_new_tokens=10, sampling=GREEDY))[-1]

    assert tokens_of(ending, [65, 66], 10) == made[: made.index(made[4])]
    assert last == Finished(reason="stop")


def test_the_length_ends_the_answer(loaded: LoadedModel) -> None:
    events = events_of(loaded, Ask(prompt_ids=(65,), max_new_tokens=3, sampling=GREEDY))

    assert len(events) == 4
    assert events[-1] == Finished(reason="length")


def test_a_seed_makes_an_answer_again(loaded: LoadedModel) -> None:
    first, again, other = (tokens_of(loaded, [65], 30, Sampling(seed=seed, temperature=2.0)) for seed in (5, 5, 6))

    assert first == again
    assert first != other


@pytest.mark.parametrize("chunk_logits", [generation.MAX_LOGITS_OF_CHUNK, 320 * 20])
def test_prompt_logprobs_sum_to_the_models_loss(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, chunk_logits: int
) -> None:
    monkeypatch.setattr(generation, "MAX_LOGITS_OF_CHUNK", chunk_logits)
    prompt = torch.randint(0, 256, (1, 77), generator=torch.Generator().manual_seed(0))
    ask = Ask(prompt_ids=tuple(prompt[0].tolist()), max_new_tokens=0, num_top_logprobs=3, scores_from=1)
    scored, finished = events_of(loaded, ask)
    with torch.inference_mode():
        loss = float(loaded.model(prompt, labels=prompt).loss)

    assert finished == Finished(reason="length")
    assert isinstance(scored, PromptScored)
    assert len(scored.scores) == 76
    assert -sum(score.logprob for score in scored.scores) / 76 == pytest.approx(loss, abs=1e-4)
    for score in scored.scores:
        values = [logprob for _, logprob in score.top]
        assert values == sorted(values, reverse=True)
        assert max(values) >= score.logprob


def test_scores_of_made_tokens_are_those_of_the_same_text_as_a_prompt(loaded: LoadedModel) -> None:
    ask = Ask(prompt_ids=(72, 105), max_new_tokens=8, sampling=GREEDY, num_top_logprobs=1)
    made = [event for event in events_of(loaded, ask) if isinstance(event, TokenMade)]
    text = (72, 105, *(event.token_id for event in made))
    read = events_of(loaded, Ask(prompt_ids=text, max_new_tokens=0, num_top_logprobs=1, scores_from=1))[0]

    assert isinstance(read, PromptScored)
    for event, again in zip(made, read.scores[1:], strict=True):
        assert event.score is not None
        assert event.score.logprob == pytest.approx(again.logprob, abs=1e-4)
        assert event.score.top[0][0] == event.token_id


def test_a_prompt_of_one_token_has_nothing_to_score(loaded: LoadedModel) -> None:
    ask = Ask(prompt_ids=(65,), max_new_tokens=0, num_top_logprobs=0, scores_from=1)

    assert events_of(loaded, ask) == [PromptScored(scores=()), Finished(reason="length")]
