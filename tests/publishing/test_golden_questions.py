"""Golden answers over the OpenAI protocol: what is asked, what is made of the answer."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from registry_hooks import golden, probe
from registry_hooks.errors import EngineError, EngineGoneError, GoldenMismatchError

MAX_LEN = 40


def answer(request: httpx.Request) -> httpx.Response:
    """A server whose tokens are characters; token i has log-probability -i, and the second best is 0.5 below."""
    asked = json.loads(request.content)
    assert (asked["echo"], asked["logprobs"], asked["temperature"], asked["model"]) == (True, 2, 0, "m")
    tokens = list(asked["prompt"]) + list("xyz"[: asked["max_tokens"]])
    if len(tokens) > MAX_LEN:
        return httpx.Response(400, json={"error": {"code": "context_length_exceeded", "message": "too long"}})
    logprobs = {
        "tokens": tokens,
        "token_logprobs": [None, *(-float(i) for i in range(1, len(tokens)))],
        "top_logprobs": [None, *({token: -float(i), "?": -i - 0.5} for i, token in enumerate(tokens) if i)],
    }
    usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": 3}
    return httpx.Response(200, json={"choices": [{"text": "", "logprobs": logprobs}], "usage": usage})


def client_of(handler: Any) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(handler), base_url="http://engine")


def observe(handler: Any, *prompts: str) -> golden.GoldenSet:
    with client_of(handler) as client:
        return probe.observe(client, prompts, model="m", device="cpu", dtype="float32")


def test_prompt_and_continuation_are_told_apart() -> None:
    seen = observe(answer, "abc", "de")

    assert (seen.device, seen.dtype) == ("cpu", "float32")
    assert [item.prompt for item in seen.items] == ["abc", "de"]
    assert seen.items[0].token_logprobs == (-1.0, -2.0)
    assert [(token.text, token.gap) for token in seen.items[0].greedy] == [("x", 0.5), ("y", 0.5), ("z", 0.5)]
    assert golden.parse(seen.to_json()) == seen
    assert golden.compare(seen, observe(answer, "abc", "de")).passed


def edited(**changes: Any) -> Any:
    def handler(request: httpx.Request) -> httpx.Response:
        document = answer(request).json()
        for key, value in changes.items():
            document["choices"][0]["logprobs"][key][2] = value
        return httpx.Response(200, text=json.dumps(document))

    return handler


def test_best_tokens_of_one_text_are_a_tie() -> None:
    [item] = observe(edited(top_logprobs={"x": -2.5}), "ab").items

    assert item.greedy[0].gap == 0.0


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_an_answer_that_is_not_finite_is_a_mismatch(value: float | None) -> None:
    with pytest.raises(GoldenMismatchError):
        observe(edited(token_logprobs=value), "abcd")


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(500, text="boom"),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json={"choices": [{"logprobs": None}], "usage": {"prompt_tokens": 1}}),
        httpx.Response(200, text="<html>"),
    ],
)
def test_an_answer_that_is_no_completion_is_named(response: httpx.Response) -> None:
    with pytest.raises(EngineError):
        observe(lambda request: response, "abc")


def test_an_engine_that_is_gone_is_named() -> None:
    def hang_up(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    with pytest.raises(EngineGoneError):
        observe(hang_up, "abc")


def test_a_prompt_that_is_too_long_is_shortened_for_the_record() -> None:
    with client_of(answer) as client:
        shortened = probe.fit(client, "a" * 100, model="m")
        kept = probe.fit(client, "a" * 20, model="m")

    assert shortened == "a" * 25
    assert kept == "a" * 20


def test_a_model_that_takes_no_prompt_is_an_error() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": {"code": "context_length_exceeded"}})

    with client_of(refuse) as client, pytest.raises(EngineError, match="no prompt"):
        probe.fit(client, "abc", model="m")
