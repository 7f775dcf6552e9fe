"""Golden chats of a real engine: a template that fails is found at publishing, and chats are repeated exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.recording_chats import record_chats
from registry_hooks import golden_chat, probe_chat
from registry_hooks.errors import NotACheckpointError
from server.engine import rendering
from server.engine.loading import LoadedModel

BROKEN = {
    "does not end": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "grows": "{% set ns = namespace(x=[1]) %}{% for a in range(90000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "reads a file": "{{ cycler.__init__.__globals__.os.popen('cat /etc/hostname').read() }}",
    "is not whole": "{{ messages[1].content + 'x' }}",
}


def client_of(api: Any) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        done = api.request(request.method, request.url.path, content=request.content, headers=dict(request.headers))
        return httpx.Response(done.status_code, content=done.content)

    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://engine")


def with_template(loaded: LoadedModel, template: str | None, **changes: Any) -> LoadedModel:
    tokenizer = type(loaded.tokenizer)(tokenizer_object=loaded.tokenizer.backend_tokenizer)
    tokenizer.chat_template = template
    return dataclasses.replace(loaded, tokenizer=tokenizer, **changes)


@pytest.mark.parametrize("template", BROKEN.values(), ids=BROKEN.keys())
def test_a_checkpoint_whose_template_fails_is_refused_with_a_way_out(
    make_api: Callable[..., Any], loaded: LoadedModel, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_RENDER_S", 0.05)
    with (
        client_of(make_api(with_template(loaded, template))) as client,
        pytest.raises(NotACheckpointError, match=r"nobody could chat.*for completions only.*golden_chats"),
    ):
        record_chats(client, tmp_path, (), model="demo")


def test_a_model_without_a_template_says_so(make_api: Callable[..., Any], loaded: LoadedModel, tmp_path: Path) -> None:
    with client_of(make_api(with_template(loaded, None))) as client:
        assert record_chats(client, tmp_path, (), model="demo") == ((), "the tokenizer has no chat template")


def test_a_template_that_wants_other_messages_than_the_general_chat_is_no_fault(
    make_api: Callable[..., Any], loaded: LoadedModel, tmp_path: Path
) -> None:
    picky = with_template(loaded, "{{ raise_exception('a system prompt is wanted') }}")
    with client_of(make_api(picky)) as client:
        chats, no_chat = record_chats(client, tmp_path, (), model="demo")
        with pytest.raises(NotACheckpointError, match="a system prompt is wanted"):
            record_chats(client, tmp_path, ("the publisher's own",), model="demo")

    assert chats == ()
    assert "a system prompt is wanted" in no_chat


def test_one_chat_that_is_too_long_does_not_cost_the_others(api: Any, tmp_path: Path) -> None:
    with client_of(api) as client:
        chats, no_chat = record_chats(client, tmp_path, ("x" * 300, "copy: abc"), model="demo")

    assert [chat.messages[0][1] for chat in chats] == ["copy: abc"]
    assert no_chat == ""


def test_a_model_that_is_too_short_for_a_chat_says_so_or_answers_less(
    make_api: Callable[..., Any], loaded: LoadedModel, tmp_path: Path
) -> None:
    short, tiny = (with_template(loaded, "{{ 'x' * 20 }}", max_model_len_tokens=length) for length in (30, 20))
    with client_of(make_api(short)) as client:
        [chat], _ = record_chats(client, tmp_path, (), model="demo")
    with client_of(make_api(tiny)) as client:
        chats, no_chat = record_chats(client, tmp_path, (), model="demo")

    assert chat.max_tokens == 8
    assert (chats, no_chat) == ((), "a chat is longer than the model's longest text")


def test_a_recorded_chat_is_repeated_exactly(api: Any, tmp_path: Path) -> None:
    with client_of(api) as client:
        [chat], no_chat = record_chats(client, tmp_path, ("copy: abc",), model="demo")
        again = probe_chat.observe_chat(client, chat.messages, model="demo", max_tokens=chat.max_tokens)

    assert no_chat == ""
    assert chat.prompt_ids
    assert chat.tokens
    assert golden_chat.difference(chat, again, near_tie=0.0) is None


def test_how_sure_the_end_of_an_answer_is_comes_from_the_same_tokens_as_a_completion(
    make_api: Callable[..., Any], loaded: LoadedModel
) -> None:
    """The untrained model never ends by itself: a token that it says is made its end token."""
    prompt = "x" * 20
    prompt_ids = tuple(loaded.tokenizer(prompt, add_special_tokens=False).input_ids)
    with client_of(make_api(with_template(loaded, prompt))) as client:
        body = {"prompt": list(prompt_ids), "temperature": 0, "max_tokens": 30, "logprobs": 0}
        names = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["tokens"]
    end = next(int(name.removeprefix("token_id:")) for name in names if name.startswith("token_id:"))
    with client_of(make_api(with_template(loaded, prompt, eos_ids=frozenset({end})))) as client:
        chat = probe_chat.observe_chat(client, (("user", "hi"),), model="demo")
        chat = dataclasses.replace(chat, prompt_ids=prompt_ids)
        gap = probe_chat.end_gap(client, chat, model="demo")

    assert chat.finish_reason == "stop"
    assert len(chat.tokens) < len(names)
    assert gap > 0


def test_a_template_that_asks_for_the_date_is_marked(api: Any, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ strftime_now('%d') }}")
    with client_of(api) as client:
        [chat], _ = record_chats(client, tmp_path, (), model="demo")

    assert chat.is_dated
