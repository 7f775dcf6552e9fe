"""What people do with `langchain-openai`, against a real gateway process."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

pytestmark = pytest.mark.integration

MODEL = "lively"


def chat(url: str, **more: Any) -> ChatOpenAI:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "max_retries": 0, "timeout": 60} | more
    return ChatOpenAI(base_url=url, api_key=SecretStr("none"), model=MODEL, **options)


def test_invoke_brings_text_usage_and_fingerprint(api_url: str) -> None:
    answer = chat(api_url).invoke("hello")

    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] <= 8
    assert answer.response_metadata["finish_reason"] in ("length", "stop")
    assert answer.response_metadata["system_fingerprint"].startswith("mv1-")


def test_stream_says_the_same_as_invoke(api_url: str) -> None:
    model = chat(api_url)

    assert "".join(str(piece.content) for piece in model.stream("hello")) == model.invoke("hello").content


def test_stream_counts_when_asked(api_url: str) -> None:
    pieces = list(chat(api_url, stream_usage=True).stream("hello"))

    assert any(piece.usage_metadata for piece in pieces)


def test_batches_and_turns_are_answered(api_url: str) -> None:
    turns = [("system", "be brief"), ("human", "hello"), ("ai", "yes?"), ("human", "go on")]
    answers = chat(api_url).batch([turns, "hello", "and you?"])

    assert all(answer.content for answer in answers)


def test_several_answers_come_from_generate(api_url: str) -> None:
    result = chat(api_url, temperature=1, seed=5, n=2).generate([[HumanMessage("hello")]])

    assert len(result.generations[0]) == 2


def test_logprobs_reach_the_response_metadata(api_url: str) -> None:
    answer = chat(api_url).bind(logprobs=True, top_logprobs=2).invoke("hello")
    scored = answer.response_metadata["logprobs"]["content"]

    assert len(scored[0]["top_logprobs"]) == 2


def test_stop_is_kept_out_of_the_text(api_url: str) -> None:
    model = chat(api_url)
    text = str(model.invoke("hello").content)
    stop = text[2:4]

    assert model.invoke("hello", stop=[stop]).content == text[: text.index(stop)]


def test_completions_are_served_too(api_url: str) -> None:
    model = OpenAI(base_url=api_url, api_key=SecretStr("none"), model=MODEL, temperature=0, max_tokens=6)

    assert model.invoke("hello")


def test_what_is_not_served_is_refused_by_name_and_not_ignored(api_url: str) -> None:
    schema = {"title": "Answer", "type": "object", "properties": {"value": {"type": "integer"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        chat(api_url).with_structured_output(schema, method="json_schema").invoke("hello")

    assert refused.value.param == "response_format"
