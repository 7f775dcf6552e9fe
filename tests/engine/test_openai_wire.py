"""The API in this process, without a network: what comes back for what is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.engine.asks import Ask, Event, Finished, TokenMade
from server.engine.loading import LoadedModel
from tests.engine.scripted_model import saying

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def events_of(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


class TestAnswers:
    def test_a_chat_answer_has_what_clients_read(self, api: Any) -> None:
        body = api.chat(temperature=0, model="demo").json()

        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        assert (body["model"], body["system_fingerprint"]) == ("demo", "v1-abc")
        assert body["choices"][0]["message"]["role"] == "assistant"
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"] == {
            "prompt_tokens": 5,
            "completion_tokens": 4,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def test_a_stream_says_what_the_whole_answer_says(self, api: Any) -> None:
        whole = api.chat(temperature=0, max_tokens=30).json()["choices"][0]
        response = api.chat(temperature=0, max_tokens=30, stream=True)
        *chunks, end = events_of(response)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]

        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert end == "[DONE]"
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(delta.get("content", "") for delta in deltas) == whole["message"]["content"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
        assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
        assert all("usage" not in chunk for chunk in chunks)

    def test_usage_comes_last_in_a_stream_that_asks_for_it(self, api: Any) -> None:
        *chunks, last, end = events_of(api.chat(stream=True, stream_options={"include_usage": True}, seed=1))

        assert end == "[DONE]"
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
        assert all(chunk["usage"] is None for chunk in chunks)

    def test_a_seed_makes_an_answer_again(self, api: Any) -> None:
        first, again, other = (api.chat(seed=seed, max_tokens=20).json()["choices"][0]["message"] for seed in (1, 1, 2))

        assert first == again
        assert first != other

    def test_without_max_tokens_a_chat_fills_what_is_left(self, make_api: Any) -> None:
        asked: list[Ask] = []

        def generate(_: LoadedModel, ask: Ask) -> Iterator[list[Event]]:
            asked.append(ask)
            yield [Finished(reason="stop")]

        api = make_api(generate=generate)
        api.chat(max_tokens=None)
        api.chat(max_tokens=None, max_completion_tokens=7)
        api.complete(max_tokens=None)

        assert [ask.max_new_tokens for ask in asked] == [256 - 5, 7, 16]

    @pytest.mark.parametrize("stream", [False, True])
    def test_stop_strings_end_the_answer_and_are_not_shown(self, make_api: Any, stream: bool) -> None:
        response = make_api(generate=saying("one two three")).chat(stop=["three", "wo t"], stream=stream)

        if stream:
            chunks = events_of(response)[:-1]
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
            reason = chunks[-1]["choices"][0]["finish_reason"]
        else:
            text = response.json()["choices"][0]["message"]["content"]
            reason = response.json()["choices"][0]["finish_reason"]
        assert (text, reason) == ("one t", "stop")

    def test_an_end_token_is_a_stop(self, make_api: Any) -> None:
        choice = make_api(generate=saying("bye", reason="stop")).chat().json()["choices"][0]

        assert (choice["message"]["content"], choice["finish_reason"]) == ("bye", "stop")

    def test_no_chunk_holds_half_a_character(self, make_api: Any) -> None:
        response = make_api(generate=saying("né🙂€")).complete(stream=True)
        texts = [chunk["choices"][0]["text"] for chunk in events_of(response)[:-1]]

        assert [text for text in texts if text] == ["n", "é", "🙂", "€"]

    def test_a_failure_in_a_stream_is_an_error_event_without_done(self, make_api: Any) -> None:
        def failing(_: LoadedModel, __: Ask) -> Iterator[list[Event]]:
            yield [TokenMade(token_id=65)]
            raise RuntimeError("it broke")

        api = make_api(generate=failing)
        *_, last = events_of(api.chat(stream=True))
        whole = api.chat()

        assert last["error"]["type"] == "server_error"
        assert refusal(whole, 500)["type"] == "server_error"
        assert api.get("/health").json()["status"] == "ok"

    @pytest.mark.parametrize("content", ["hi", [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]])
    @pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
    def test_all_roles_and_text_parts_are_taken(self, api: Any, role: str, content: Any) -> None:
        response = api.chat(messages=[{"role": role, "content": content}, user("hi")])

        assert response.status_code == 200
        assert response.json()["usage"]["prompt_tokens"] == (9 if role != "tool" else 16)

    @pytest.mark.parametrize("model", ["demo", "demo@Production", "demo/3", None])
    def test_the_models_name_may_carry_an_alias_or_a_version(self, api: Any, model: str | None) -> None:
        assert api.chat(model=model).json()["model"] == "demo"

    def test_unknown_fields_and_defaults_are_ignored(self, api: Any) -> None:
        defaults = {"n": 1, "tools": [], "logit_bias": {}, "frequency_penalty": 0.0, "top_logprobs": None}

        assert api.chat(user="me", metadata={"a": 1}, logprobs=False, **defaults).status_code == 200
        assert api.chat(response_format={"type": "text"}, tool_choice="none").status_code == 200


class TestCompletions:
    def test_echo_with_logprobs_scores_the_prompt(self, api: Any, loaded: LoadedModel) -> None:
        choice = api.complete(prompt="hello", echo=True, logprobs=2, max_tokens=0).json()["choices"][0]
        logprobs = choice["logprobs"]

        assert (choice["text"], choice["finish_reason"]) == ("hello", "length")
        assert logprobs["tokens"] == list("hello")
        assert logprobs["text_offset"] == [0, 1, 2, 3, 4]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert all(math.isfinite(value) and value < 0 for value in logprobs["token_logprobs"][1:])
        assert all(len(top) in (2, 3) for top in logprobs["top_logprobs"][1:])

    def test_a_prompt_of_token_ids_scores_the_same(self, api: Any, loaded: LoadedModel) -> None:
        options = {"echo": True, "logprobs": 0, "max_tokens": 0}
        ids = loaded.tokenizer("hello").input_ids
        as_text, as_ids, in_a_list = (
            api.complete(prompt=prompt, **options).json()["choices"] for prompt in ("hello", ids, [ids])
        )

        assert as_text == as_ids == in_a_list
        assert as_text[0]["logprobs"]["top_logprobs"][1:] == [{}] * 4

    def test_made_tokens_follow_the_echoed_ones(self, api: Any) -> None:
        options = {"temperature": 0, "max_tokens": 6, "logprobs": 1}
        alone = api.complete(**options).json()["choices"][0]
        echoed = api.complete(echo=True, **options).json()["choices"][0]

        assert echoed["text"] == "hello" + alone["text"]
        assert echoed["logprobs"]["tokens"][5:] == alone["logprobs"]["tokens"]
        assert echoed["logprobs"]["token_logprobs"][5:] == pytest.approx(alone["logprobs"]["token_logprobs"], abs=1e-4)
        assert [offset - 5 for offset in echoed["logprobs"]["text_offset"][5:]] == alone["logprobs"]["text_offset"]

    def test_a_greedy_token_is_the_best_of_its_alternatives(self, api: Any) -> None:
        logprobs = api.complete(temperature=0, max_tokens=8, logprobs=5).json()["choices"][0]["logprobs"]

        assert all(len(top) == 5 for top in logprobs["top_logprobs"])
        for token, value, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            assert max(top.values()) == top[token] == value

    def test_a_stream_of_logprobs_says_what_the_whole_says(self, api: Any) -> None:
        options = {"temperature": 0, "max_tokens": 8, "logprobs": 2, "echo": True}
        whole = api.complete(**options).json()["choices"][0]
        chunks = [chunk["choices"][0] for chunk in events_of(api.complete(stream=True, **options))[:-1]]

        assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
        for key in ("tokens", "token_logprobs", "text_offset"):
            assert [value for chunk in chunks for value in chunk["logprobs"][key]] == whole["logprobs"][key]

    def test_max_tokens_zero_makes_nothing(self, api: Any) -> None:
        body = api.complete(max_tokens=0).json()

        assert body["choices"][0]["text"] == ""
        assert body["usage"]["completion_tokens"] == 0

    def test_a_prompt_may_fill_the_whole_length_when_nothing_is_made(self, api: Any) -> None:
        assert api.complete(prompt="x" * 256, max_tokens=0).status_code == 200
        assert refusal(api.complete(prompt="x" * 257, max_tokens=0))["code"] == "context_length_exceeded"
