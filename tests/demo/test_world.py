"""The demo's tokenizer and model: every text survives, chats have turns, and what is saved loads as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.demo import tasks, training, world


@pytest.mark.parametrize("text", ["copy abc", "", " two  spaces\n\ttab ", "héllo wörld 𝄞", "\x00\x7f"])
def test_every_text_survives_one_token_per_byte(text: str) -> None:
    tokenizer = world.build_tokenizer()
    ids = tokenizer(text)["input_ids"]

    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_a_chat_is_turns_that_end_with_eos_and_an_open_turn_of_the_assistant() -> None:
    tokenizer = world.build_tokenizer()
    chat = [{"role": "user", "content": "copy abc"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text)["input_ids"]

    assert text == "<|user|>copy abc<|end|><|assistant|>"
    assert len(ids) == len("copy abc") + 3
    assert ids[-2] == tokenizer.eos_token_id


def test_what_is_saved_loads_as_it_was(tmp_path: Path) -> None:
    world.save_untrained(tmp_path, seed=3)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    original = world.build_model(3)

    assert tokenizer.chat_template == world.CHAT_TEMPLATE
    assert tokenizer.decode(tokenizer("max 20 76")["input_ids"]) == "max 20 76"
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert 700_000 < model.num_parameters() < 900_000
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), model.parameters(), strict=True))


def test_another_seed_gives_other_weights_and_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, two = world.build_model(0), world.build_model(1)

    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(next(one.parameters()), next(two.parameters()))


def test_only_the_answer_and_its_end_carry_loss() -> None:
    tokenizer = world.build_tokenizer()
    short, long = tasks.held_out(1)[2], tasks.Example(slice="copy", prompt="copy abcde", answer="abcde")
    batch = training.Collator(tokenizer)([short, long])
    answers = [tokenizer.decode(labels[labels != training.IGNORED]) for labels in batch["labels"]]

    assert answers == [f"{one.answer}<|end|>" for one in (short, long)]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape


def test_exact_match_counts_whole_answers_per_slice() -> None:
    tokenizer = world.build_tokenizer()
    labels = training.Collator(tokenizer)(tasks.held_out())["labels"].numpy()
    guesses = labels.copy()
    guesses[:, :-1] = labels[:, 1:]  # what a perfect model predicts after each token
    is_add = [one.slice == "add" for one in tasks.held_out()]
    guesses[is_add] = 0

    metrics = training.exact_match(training.EvalPrediction(predictions=guesses, label_ids=labels))

    assert metrics == {
        "exact_match": 0.75,
        "exact_match_copy": 1.0,
        "exact_match_reverse": 1.0,
        "exact_match_max": 1.0,
        "exact_match_add": 0.0,
    }
