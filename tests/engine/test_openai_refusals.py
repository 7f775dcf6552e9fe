"""What the API says to requests that it does not answer: OpenAI's error body, and the field that is at fault."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import httpx
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AddedToken

from server.engine import tokenizing, wire
from server.engine.api_errors import InvalidRequestError
from server.engine.bodies import MAX_BODY_BYTES
from server.engine.loading import LoadedModel

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


class TestRefusals:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'"x"',
            b"\xff\xfe",
            b'{"messages": NaN}',
            b"[" * 100_000,
            b'{"seed": ' + b"9" * 9999 + b"}",
        ],
    )
    @pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
    def test_bodies_that_are_no_json_object(self, api: Any, path: str, body: bytes) -> None:
        error = refusal(api.request("POST", path, content=body))

        assert (error["type"], error["param"]) == ("invalid_request_error", None)

    def test_a_body_that_is_too_long(self, api: Any) -> None:
        body = json.dumps({"prompt": "x" * MAX_BODY_BYTES}).encode()

        assert refusal(api.request("POST", COMPLETIONS, content=body), 413)["code"] == "request_too_large"

    def test_half_a_surrogate_pair(self, api: Any) -> None:
        error = refusal(api.request("POST", COMPLETIONS, content=b'{"prompt": "\\ud800"}'))

        assert "surrogate" in error["message"]

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": None}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [7]}, "messages.0"),
            ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
            ({"messages": [{"content": "hi"}]}, "messages.0.role"),
            ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
            ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
            ({"temperature": -0.1}, "temperature"),
            ({"temperature": 2.1}, "temperature"),
            ({"temperature": "0"}, "temperature"),
            ({"temperature": True}, "temperature"),
            ({"top_p": -1}, "top_p"),
            ({"top_p": 1.01}, "top_p"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"max_tokens": 1.5}, "max_tokens"),
            ({"max_completion_tokens": 0}, "max_completion_tokens"),
            ({"seed": 2**63}, "seed"),
            ({"seed": 0.5}, "seed"),
            ({"stop": [""]}, "stop.0"),
            ({"stop": 5}, "stop"),
            ({"stop": ["a"] * 17}, "stop"),
            ({"stop": "x" * 1001}, "stop.0"),
            ({"stream": "yes"}, "stream"),
            ({"n": 0}, "n"),
            ({"n": 9}, "n"),
            ({"top_logprobs": 3}, "top_logprobs"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            ({"frequency_penalty": 2.5}, "frequency_penalty"),
            ({"presence_penalty": "high"}, "presence_penalty"),
            ({"repetition_penalty": 0}, "repetition_penalty"),
            ({"min_p": -0.1}, "min_p"),
            ({"top_k": -2}, "top_k"),
            ({"logit_bias": {"x": 1}}, "logit_bias"),
            ({"logit_bias": {"999999": 1}}, "logit_bias"),
            ({"stream_options": []}, "stream_options"),
            ({"model": 7}, "model"),
        ],
    )
    def test_wrong_values_name_their_field(self, api: Any, change: dict[str, Any], param: str) -> None:
        error = refusal(api.chat(**change))

        assert (error["type"], error["param"]) == ("invalid_request_error", param)

    def test_a_token_that_the_model_has_not_refuses_only_the_prompts_that_hold_it(
        self, loaded: LoadedModel, make_api: Any
    ) -> None:
        tokenizer = copy.deepcopy(loaded.tokenizer)
        while len(tokenizer) <= loaded.vocab_size:
            tokenizer.add_tokens([AddedToken(f"<image_{len(tokenizer)}>", special=True)], special_tokens=True)
        odd = f"<image_{loaded.vocab_size}>"
        api = make_api(dataclasses.replace(loaded, tokenizer=tokenizer))

        assert refusal(api.chat(messages=[user(odd)]))["param"] == "messages"
        assert refusal(api.complete(prompt=odd))["param"] == "prompt"
        assert str(loaded.vocab_size) in refusal(api.complete(prompt=odd))["message"]
        assert api.chat().status_code == api.complete().status_code == 200

    def test_tools_that_may_not_be_called_change_nothing(self, api: Any) -> None:
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        plain = api.chat(temperature=0).json()["choices"]

        assert api.chat(temperature=0, tools=tools, tool_choice="none").json()["choices"] == plain
        assert api.chat(temperature=0, functions=[{"name": "f"}], function_call="none").json()["choices"] == plain
        assert refusal(api.chat(tools=tools, tool_choice="auto"))["param"] == "tools"

    def test_infinity_in_disguise(self, api: Any) -> None:
        body = b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}'

        assert refusal(api.request("POST", CHAT, content=body))["param"] == "temperature"

    @pytest.mark.parametrize(
        "field",
        [
            {"best_of": 2},
            {"tools": [{"type": "function"}]},
            {"response_format": {"type": "json_object"}},
            {"reasoning_effort": "high"},
            {"continue_final_message": True},
            {"add_generation_prompt": False},
        ],
    )
    def test_fields_that_are_not_served_are_refused_by_name(self, api: Any, field: dict[str, Any]) -> None:
        error = refusal(api.chat(**field))

        assert (error["code"], error["param"]) == ("unsupported_parameter", next(iter(field)))

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"prompt": None}, "prompt"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": []}, "prompt"),
            ({"prompt": [1, "a"]}, "prompt.0.1"),
            ({"prompt": [320]}, "prompt"),
            ({"prompt": [-1]}, "prompt"),
            ({"prompt": ["a", ""]}, "prompt"),
            ({"prompt": ["a", [320]]}, "prompt"),
            ({"prompt": ["a"] * 65}, "prompt"),
            ({"prompt": ["a"] * 40, "n": 2}, "n"),
            ({"prompt": {"a": 1}}, "prompt"),
            ({"logprobs": 21}, "logprobs"),
            ({"logprobs": True}, "logprobs"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"best_of": 2}, "best_of"),
            ({"suffix": "x"}, "suffix"),
        ],
    )
    def test_wrong_completions_name_their_field(self, api: Any, change: dict[str, Any], param: str) -> None:
        assert refusal(api.complete(**change))["param"] == param

    @pytest.mark.parametrize("change", [{"max_tokens": 252}, {"messages": [user("x" * 260)]}])
    def test_a_text_longer_than_the_models_is_refused(self, api: Any, change: dict[str, Any]) -> None:
        assert refusal(api.chat(**change))["code"] == "context_length_exceeded"

    def test_the_longest_answer_that_fits_is_taken(self, api: Any) -> None:
        assert api.chat(max_tokens=251, stop="\n").status_code == 200

    @pytest.mark.parametrize("model", ["other", "demo2", "dem", "", "@Production"])
    def test_another_model_is_not_found(self, api: Any, model: str) -> None:
        assert refusal(api.chat(model=model), 404)["code"] == "model_not_found"

    def test_without_a_chat_template_a_chat_is_told_where_to_go(self, make_api: Any, loaded: LoadedModel) -> None:
        api = make_api(dataclasses.replace(loaded, tokenizer=with_template(loaded, None)))

        assert "/v1/completions" in refusal(api.chat())["message"]
        assert api.complete().status_code == 200

    def test_a_template_that_refuses_is_the_clients_mistake(self, make_api: Any, loaded: LoadedModel) -> None:
        template = "{{ raise_exception('roles must alternate') }}"
        api = make_api(dataclasses.replace(loaded, tokenizer=with_template(loaded, template)))

        assert "roles must alternate" in refusal(api.chat())["message"]

    def test_a_full_line_is_a_429_with_retry_after(self, make_api: Any) -> None:
        api = make_api(max_queue=0)
        api.running.engine._num_rows = 0  # as if every row were taken
        response = api.chat()

        assert refusal(response, 429)["code"] == "queue_full"
        assert response.headers["retry-after"] == "1"

    def test_a_stopped_engine_is_a_503(self, make_api: Any) -> None:
        api = make_api()
        api.running.engine.stop()

        assert refusal(api.chat(), 503)["code"] == "engine_stopping"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/nowhere", 404), ("GET", CHAT, 405), ("POST", "/v1/models", 405), ("GET", "/v1/models/other", 404)],
    )
    def test_wrong_paths_and_methods(self, api: Any, method: str, path: str, status: int) -> None:
        error = refusal(api.request(method, path), status)

        assert error["type"] == "invalid_request_error"

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )

    @given(
        st.sampled_from([CHAT, COMPLETIONS]),
        st.dictionaries(
            st.sampled_from(
                ["model", "messages", "prompt", "stream", "stop", "seed", "temperature", "top_p", "n", "tools"]
            ),
            json_values,
            max_size=4,
        ),
    )
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_body_makes_the_server_fail(self, api: Any, path: str, body: dict[str, Any]) -> None:
        good = {"messages": [user("hi")], "prompt": "hi", "max_tokens": 1}
        response = api.request("POST", path, content=json.dumps(good | body).encode())

        assert response.status_code == 200 or 400 <= response.status_code < 500
        assert response.status_code == 200 or response.json()["error"]["message"]


def with_template(loaded: LoadedModel, template: str | None) -> Any:
    tokenizer = type(loaded.tokenizer)(tokenizer_object=loaded.tokenizer.backend_tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (wire.CompletionRequest, {"prompt": [["a"] * 100]}),
        (wire.ChatRequest, {"messages": [{}] * 100}),
        (wire.ChatRequest, {"messages": [{"role": "user", "content": [1] * 100}]}),
        (tokenizing.TokenizeRequest, {"messages": [{}] * 100}),
        (tokenizing.DetokenizeRequest, {"tokens": ["a"] * 100}),
    ],
)
def test_a_list_of_mistakes_is_read_up_to_the_first(kind: type[pydantic.BaseModel], document: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        kind.model_validate(document)

    assert caught.value.error_count() < 5


def test_too_many_biases_are_refused_before_they_are_read() -> None:
    biases = {str(number): 1000 for number in range(wire.MAX_BIASES + 1)}
    with pytest.raises(InvalidRequestError, match="at most 1024 tokens"):
        wire.parse(wire.CompletionRequest, {"prompt": "a", "logit_bias": biases})
