"""Before users ask a new engine, the gateway does, on their path: a version whose chats fail is never served."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from registry_hooks.errors import (
    DeclinedError,
    EngineError,
    EngineGoneError,
    GoldenMismatchError,
    StartCancelledError,
)
from registry_hooks.golden import GoldenItem, GoldenSet
from registry_hooks.golden_chat import GoldenChat, GreedyToken
from server.engine_spec import EngineReady, EngineSpec
from server.gateway import checking
from server.gateway.checking import check_golden, warm_up

IDS = (1, 7, 2)
CHAT = GoldenChat(
    messages=(("user", "Hello"),),
    prompt_ids=IDS,
    is_dated=False,
    max_tokens=8,
    text="Yes.",
    tokens=(GreedyToken(text="Yes", gap=9.0), GreedyToken(text=".", gap=9.0)),
    finish_reason="stop",
    end_gap=9.0,
)
PROMPT = GoldenItem(prompt="1 + 1 =", token_logprobs=(-1.0,), greedy=())
RECORDED = GoldenSet(items=(PROMPT,), device="cpu", dtype="float32", chats=(CHAT,))
OLD = GoldenSet(items=(PROMPT,), device="cpu", dtype="float32")
BROKEN = httpx.Response(400, json={"error": {"message": "the model's chat template did not end", "code": None}})
NO_TEMPLATE = httpx.Response(400, json={"error": {"message": "none", "code": "no_chat_template"}})
REFUSED = httpx.Response(400, json={"error": {"message": "a system prompt first", "code": "refused_by_template"}})
TOO_LONG = httpx.Response(400, json={"error": {"message": "too long", "code": "context_length_exceeded"}})


def a_chat_answer(*names: str, reason: str = "stop", logprobs: bool = True) -> httpx.Response:
    content = [
        {
            "token": name,
            "logprob": -0.1,
            "top_logprobs": [{"token": name, "logprob": -0.1}, {"token": "?", "logprob": -9}],
        }
        for name in names
    ]
    choice = {"message": {"content": "".join(names)}, "finish_reason": reason}
    return httpx.Response(200, json={"choices": [choice | ({"logprobs": {"content": content}} if logprobs else {})]})


def an_engine(
    chat: httpx.Response | Callable[[dict[str, Any]], httpx.Response] = a_chat_answer("Yes", "."),  # noqa: B008
    ids: tuple[int, ...] | None = IDS,
    prompt: httpx.Response | None = None,
    command: str = "",
    limit: int = 0,
) -> Any:
    """One that answers the prompt as recorded, and chats as the test says."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path == "/tokenize":
            return httpx.Response(404) if ids is None else httpx.Response(200, json={"tokens": list(ids)})
        if request.url.path == "/v1/chat/completions":
            return chat(body) if callable(chat) else chat
        if prompt is not None:
            return prompt
        scores = {"tokens": ["1", "+"], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"+": -1.0}]}
        usage = {"prompt_tokens": 2}
        return httpx.Response(200, json={"choices": [{"text": "", "logprobs": scores}], "usage": usage})

    ready = EngineReady(
        device="cpu", dtype="float32", vram_bytes=0, rss_bytes=0, num_parameters=0, max_model_len_tokens=64, load_s=0.0
    )
    spec = EngineSpec(checkpoint_dir="d", uds="u", model_name="m", command=command, max_model_len_tokens=limit)
    return SimpleNamespace(
        spec=spec,
        ready=ready,
        model_name="m",
        last_words=lambda: "",
        client=lambda timeout_s: httpx.Client(transport=httpx.MockTransport(answer), base_url="http://engine"),
    )


def check(engine: Any, recorded: GoldenSet | None = RECORDED, *, required: bool = False) -> str:
    return check_golden(engine, recorded, required=required)


def test_a_chat_as_recorded_is_part_of_the_verdict() -> None:
    assert "a chat as recorded: its 3 token ids are the same, 2 of the answer's 2 tokens" in check(an_engine())


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (an_engine(BROKEN), "did not end"),
        (an_engine(NO_TEMPLATE), "400"),
        (an_engine(ids=(1, 9, 2)), "another chat template or tokenizer"),
        (an_engine(a_chat_answer("Yes", ".", " ", "Yes", reason="length")), "goes on"),
        (an_engine(a_chat_answer("No", ".")), "'No' in place of 'Yes'"),
        (an_engine(TOO_LONG), "too long"),
        (an_engine(prompt=TOO_LONG), "too long"),
        (an_engine(prompt=httpx.Response(422)), "422"),
    ],
)
def test_a_version_that_answers_otherwise_than_at_publishing_is_at_fault(engine: Any, says: str) -> None:
    with pytest.raises(GoldenMismatchError, match=says):
        check(engine)


@pytest.mark.parametrize("engine", [an_engine(TOO_LONG, limit=8), an_engine(prompt=TOO_LONG, limit=8)])
def test_a_lower_limit_of_this_box_is_not_the_versions_fault(engine: Any) -> None:
    with pytest.raises(DeclinedError, match="max_model_len_tokens of this server is 8"):
        check(engine)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_not_the_versions_fault(status: int) -> None:
    with pytest.raises(EngineError):
        check(an_engine(httpx.Response(status)))


def test_a_golden_set_without_chats_is_valid_and_its_version_must_still_chat() -> None:
    old, broken = an_engine(), an_engine(BROKEN)

    assert "no chat: recorded before chats were" in check(old, OLD)
    warm_up(old, OLD)
    assert "reproduced" in check(broken, OLD)
    for recorded in (OLD, None):
        with pytest.raises(GoldenMismatchError, match="nobody could chat with it"):
            warm_up(broken, recorded)


def test_a_base_model_has_no_chats_and_is_served() -> None:
    engine = an_engine(NO_TEMPLATE)
    recorded = GoldenSet(items=(PROMPT,), device="cpu", dtype="float32", no_chat="the tokenizer has no chat template")

    assert "no chat: the tokenizer has no chat template" in check(engine, recorded)
    warm_up(engine, recorded)
    warm_up(an_engine(TOO_LONG), None)


def test_a_template_that_does_not_take_our_own_chat_is_no_fault_and_one_that_took_the_recorded_is() -> None:
    warm_up(an_engine(REFUSED), None)
    with pytest.raises(GoldenMismatchError, match="a system prompt first"):
        check(an_engine(REFUSED))


def test_a_template_that_takes_certain_messages_alone_is_warmed_up_with_one_of_them() -> None:
    def picky(body: dict[str, Any]) -> httpx.Response:
        return a_chat_answer("Yes") if body["messages"] == [{"role": "user", "content": "en to fr: yes"}] else BROKEN

    chat = GoldenChat(
        messages=(("user", "en to fr: yes"),),
        prompt_ids=None,
        is_dated=False,
        max_tokens=8,
        text="Yes",
        tokens=(),
        finish_reason="stop",
    )

    warm_up(an_engine(picky), GoldenSet(items=(PROMPT,), device="cpu", dtype="float32", chats=(chat,)))
    with pytest.raises(GoldenMismatchError):
        warm_up(an_engine(picky), None)


def test_an_engine_that_is_gone_is_the_moments_fault() -> None:
    def hang_up(body: dict[str, Any]) -> httpx.Response:
        raise httpx.ReadError("gone")

    with pytest.raises(EngineGoneError):
        check(an_engine(hang_up))
    with pytest.raises(EngineGoneError):
        warm_up(an_engine(hang_up), RECORDED)


def test_another_programs_chats_are_compared_as_far_as_it_tells() -> None:
    def no_scores(body: dict[str, Any]) -> httpx.Response:
        return BROKEN if "logprobs" in body else a_chat_answer("Yes.", logprobs=False)

    cannot = httpx.Response(404)
    told = check(an_engine(no_scores, ids=None, prompt=cannot, command="x {dir} {port}"), required=True)

    assert "this engine has no /tokenize" in told
    with pytest.raises(DeclinedError, match="goes on"):
        check(an_engine(a_chat_answer("Yes", ".", "Y", "e", reason="length"), ids=None, command="x {dir} {port}"))


def test_another_program_without_chats_cannot_be_asked_one_and_one_that_refuses_it_is_at_fault_itself() -> None:
    cannot = httpx.Response(404)

    assert "chats could not be checked" in check(an_engine(cannot, command="x {dir} {port}"), required=True)
    with pytest.raises(EngineError, match=r"log of the program of engine\.command"):
        check(an_engine(BROKEN, command="x {dir} {port}"))
    with pytest.raises(DeclinedError, match="require_golden of this box is on"):
        check(an_engine(cannot, prompt=cannot, command="x {dir} {port}"), required=True)


@pytest.mark.parametrize(("dtype", "error"), [("auto", GoldenMismatchError), ("float16", DeclinedError)])
def test_a_dtype_that_only_this_box_asks_for_is_not_the_versions_fault(dtype: str, error: type[Exception]) -> None:
    engine = an_engine(a_chat_answer("No", "."))
    engine.spec = dataclasses.replace(engine.spec, dtype=dtype)

    with pytest.raises(error):
        check(engine)


def test_all_golden_questions_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(checking, "time", SimpleNamespace(monotonic=lambda: 400.0 * next(now)))

    with pytest.raises(EngineGoneError, match="within 600 s"):
        check(an_engine(), dataclasses.replace(RECORDED, items=(PROMPT,) * 5))


def test_a_golden_check_ends_when_nobody_wants_the_version_any_more() -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(StartCancelledError):
        check_golden(
            an_engine(), dataclasses.replace(RECORDED, items=(PROMPT,) * 50), required=False, cancelled=cancelled
        )
    assert len(asked) == 4
