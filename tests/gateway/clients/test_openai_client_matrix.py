"""What people do with the `openai` package, against a real gateway process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.integration

MODEL = "lively"
TURN: list[Any] = [{"role": "user", "content": "hello"}]
GREEDY: dict[str, Any] = {"model": MODEL, "messages": TURN, "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(api_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api_url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    listed = client.models.list().data

    assert [card.id for card in listed] == [MODEL, f"{MODEL}@Production", f"{MODEL}/1"]
    assert client.models.retrieve(MODEL).object == "model"


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_length_limit_end_an_answer(client: openai.OpenAI, limit: str) -> None:
    answer: Any = client.chat.completions.create(model=MODEL, messages=TURN, temperature=0, **{limit: 5})

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_a_stream_says_the_same_as_a_whole_answer_and_counts_when_asked(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({(c.id, c.created, c.system_fingerprint) for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_usage_is_left_out_of_a_stream_that_did_not_ask(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**GREEDY, stream=True))

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_a_stream_that_is_closed_early_leaves_the_engine_well(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**GREEDY | {"max_tokens": 200}, stream=True) as stream:
        next(iter(stream))

    assert client.chat.completions.create(**GREEDY).choices[0].message.content


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": "yes?"},
        {"role": "tool", "content": "42", "tool_call_id": "call-1"},
    ],
)
def test_every_role_and_form_of_content_is_answered(client: openai.OpenAI, turn: dict[str, Any]) -> None:
    answer = client.chat.completions.create(**GREEDY | {"messages": [turn, *TURN]})

    assert answer.choices[0].message.role == "assistant"


def test_parts_mean_what_their_text_means(client: openai.OpenAI) -> None:
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    split = client.chat.completions.create(**GREEDY | {"messages": parts})

    assert split.choices[0].message.content == client.chat.completions.create(**GREEDY).choices[0].message.content


def test_a_stop_string_ends_the_answer_before_itself(client: openai.OpenAI) -> None:
    text = client.chat.completions.create(**GREEDY).choices[0].message.content or ""
    stop = text[3:5]
    stopped = client.chat.completions.create(**GREEDY, stop=[stop])

    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_n_answers_have_their_numbers_and_are_counted_together(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY | {"temperature": 1, "seed": 3}, n=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 36


def test_n_answers_stream_beside_one_another(client: openai.OpenAI) -> None:
    options = GREEDY | {"temperature": 1, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**options)
    texts, reasons = {0: "", 1: ""}, {}
    for chunk in client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)

    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}


def test_a_seed_gives_the_same_text_alone_and_in_a_crowd(client: openai.OpenAI) -> None:
    options = GREEDY | {"temperature": 1.0, "seed": 11, "max_tokens": 24}
    alone = client.chat.completions.create(**options).choices[0].message.content
    others = [options | {"seed": seed, "top_p": 0.9} for seed in range(7)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda o: client.chat.completions.create(**o), [options, *others]))

    assert answers[0].choices[0].message.content == alone


def test_logprobs_of_a_chat_are_those_of_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    scored = answer.choices[0].logprobs

    assert scored is not None
    assert scored.content is not None
    assert answer.usage is not None
    assert len(scored.content) == answer.usage.completion_tokens
    for token in scored.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= 0
        # Greedy: the chosen token is the likeliest.
        assert token.logprob == max(one.logprob for one in token.top_logprobs)


def test_logit_bias_forces_and_forbids_a_token(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "hello", "temperature": 0, "max_tokens": 4, "logprobs": 1}
    forced = client.completions.create(**options, logit_bias={"40": 100}).choices[0].logprobs
    plain = client.completions.create(**options).choices[0].logprobs
    forbidden = client.completions.create(**options, logit_bias={"40": -100}).choices[0].logprobs

    assert forced is not None
    assert plain is not None
    assert forbidden is not None
    assert len(set(forced.tokens or [])) == 1
    assert forced.tokens != plain.tokens
    assert (forced.tokens or [""])[0] not in (forbidden.tokens or [])


def test_penalties_break_a_forced_repetition(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "hello", "temperature": 0, "max_tokens": 8}
    repeated = client.completions.create(**options, logit_bias={"40": 12, "41": 11.5}).choices[0].text
    varied = client.completions.create(
        **options, logit_bias={"40": 12, "41": 11.5}, frequency_penalty=2, presence_penalty=2
    )

    assert len(set(varied.choices[0].text)) > len(set(repeated))


def test_extras_of_other_servers_pass(client: openai.OpenAI) -> None:
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "unknown_field": {"a": 1}, "chat_template_kwargs": {}}

    assert client.chat.completions.create(**GREEDY, user="me", extra_body=extra).choices


@pytest.mark.parametrize("prompt", ["hello", ["hello", "world"], [1, 2, 3], [[1, 2, 3], [4, 5]]])
def test_every_form_of_a_prompt_is_completed(client: openai.OpenAI, prompt: Any) -> None:
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=3, temperature=0)
    number = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1

    assert [choice.index for choice in answer.choices] == list(range(number))


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_with_logprobs_scores_a_prompt(client: openai.OpenAI, max_tokens: int) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=[[10, 20, 30, 40]], echo=True, logprobs=1, max_tokens=max_tokens, temperature=0
    )
    scored = answer.choices[0].logprobs

    assert scored is not None
    assert scored.token_logprobs is not None
    assert scored.top_logprobs is not None
    assert len(scored.token_logprobs) == len(scored.top_logprobs) == 4 + max_tokens
    assert scored.token_logprobs[0] is None
    assert all(math.isfinite(value) and value <= 0 for value in scored.token_logprobs[1:])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"stop": [f"stop {n}" for n in range(17)]}, "stop"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, "messages.0.role"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
    ],
)
def test_bad_fields_are_named_in_the_clients_own_error(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**GREEDY | fields)

    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert refused.value.message


def test_a_prompt_that_is_too_long_is_refused_by_the_code_that_clients_know(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**GREEDY | {"messages": [{"role": "user", "content": "long " * 500}]})

    assert refused.value.code == "context_length_exceeded"


def test_a_model_that_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as lost:
        client.chat.completions.create(**GREEDY | {"model": "other"})

    assert lost.value.code == "model_not_found"
