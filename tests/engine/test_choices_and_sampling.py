"""Several answers to one request, log-probabilities in chats, and the sampling settings of each request."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from server.engine.asks import Sampling
from server.engine.sampling import Sampler


def chunks_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_n_answers_differ_and_come_again_with_the_same_seed(api: Any) -> None:
    options = {"n": 3, "temperature": 1.5, "seed": 11, "max_tokens": 12}
    first, again = api.chat(**options).json(), api.chat(**options).json()
    alone = api.chat(**options | {"n": 1}).json()
    texts = [choice["message"]["content"] for choice in first["choices"]]

    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert alone["choices"][0]["message"]["content"] == texts[0]
    assert first["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert first["usage"]["completion_tokens"] > alone["usage"]["completion_tokens"]


def test_n_answers_are_streamed_with_their_index(api: Any) -> None:
    options = {"n": 2, "temperature": 1.5, "seed": 11, "max_tokens": 12}
    whole = api.chat(**options).json()
    response = api.chat(**options, stream=True, stream_options={"include_usage": True})
    chunks = chunks_of(response.text)
    texts, ends = ["", ""], [0, 0]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
            ends[choice["index"]] += choice["finish_reason"] is not None

    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert ends == [1, 1]
    assert chunks[-1]["usage"] == whole["usage"]
    assert response.text.endswith("data: [DONE]\n\n")


def test_several_prompts_are_answered_in_their_order(api: Any) -> None:
    options = {"temperature": 0, "max_tokens": 6}
    together = api.complete(prompt=["one", [66, 67], "three"], **options).json()
    singly = [api.complete(prompt=prompt, **options).json() for prompt in ("one", [66, 67], "three")]

    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    assert [c["text"] for c in together["choices"]] == [one["choices"][0]["text"] for one in singly]
    assert together["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in singly)


def test_several_prompts_are_scored_in_one_request(api: Any) -> None:
    body = {"prompt": ["hello there", "hello here"], "max_tokens": 0, "echo": True, "logprobs": 1}
    choices = api.complete(**body).json()["choices"]

    assert [choice["text"] for choice in choices] == body["prompt"]
    for choice in choices:
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert all(value < 0 for value in choice["logprobs"]["token_logprobs"][1:])


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_shows_log_probabilities_in_openais_form(api: Any, stream: bool) -> None:
    response = api.chat(temperature=0, max_tokens=5, logprobs=True, top_logprobs=2, stream=stream)
    choices = [chunk["choices"][0] for chunk in chunks_of(response.text)] if stream else response.json()["choices"]
    tokens = [token for choice in choices for token in (choice["logprobs"] or {"content": []})["content"]]

    assert len(tokens) == 5
    for token in tokens:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"])
        assert token["bytes"] is None or bytes(token["bytes"]).decode() == token["token"]


def test_settings_that_leave_one_token_are_greedy(api: Any) -> None:
    greedy = text_of(api.chat(temperature=0, max_tokens=10))

    assert text_of(api.chat(temperature=1.9, top_k=1, max_tokens=10)) == greedy
    assert text_of(api.chat(temperature=1.9, min_p=1, max_tokens=10)) == greedy
    assert text_of(api.chat(temperature=1.9, top_p=0, max_tokens=10)) == greedy


def test_a_bias_forces_a_token(api: Any) -> None:
    forced = api.complete(temperature=0, max_tokens=5, logit_bias={"65": 100}).json()["choices"][0]["text"]

    assert len(set(forced)) == 1


def picks(sampling: Sampling, logits: list[float], number: int, prompt: tuple[int, ...] = ()) -> list[int]:
    sampler = Sampler(sampling, prompt)
    return [sampler.pick(torch.tensor(logits)) for _ in range(number)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [0, 0, 0, 0]),
        ({"frequency_penalty": 0.4}, [0, 1, 2, 0]),  # 2.0 1.7 1.65 → 1.6 → 1.3 → 1.25
        ({"presence_penalty": 0.4}, [0, 1, 2, 0]),
        ({"repetition_penalty": 1.5}, [0, 1, 2, 0]),
        ({"logit_bias": ((0, -1.0),)}, [1, 1, 1, 1]),
    ],
)
def test_penalties_and_biases_change_what_is_greedy(change: dict[str, Any], expected: list[int]) -> None:
    assert picks(Sampling(temperature=0, **change), [2.0, 1.7, 1.65], 4) == expected


def test_only_the_repetition_penalty_counts_the_prompt() -> None:
    logits = [2.0, 1.7, -1.0]

    assert picks(Sampling(temperature=0, repetition_penalty=1.5), logits, 1, prompt=(0,)) == [1]
    assert picks(Sampling(temperature=0, presence_penalty=1), logits, 1, prompt=(0,)) == [0]
