"""A chat template is a program of the checkpoint's: bounded in time, and nothing that a client can replace."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server.engine import rendering
from server.engine.loading import LoadedModel
from server.engine.rendering import TimeUpError, within

ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"


def with_template(loaded: LoadedModel, template: str) -> LoadedModel:
    tokenizer = type(loaded.tokenizer)(tokenizer_object=loaded.tokenizer.backend_tokenizer)
    tokenizer.chat_template = template
    return dataclasses.replace(loaded, tokenizer=tokenizer)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MAX_RENDER_S", 0.1)


@pytest.mark.usefixtures("hasty")
def test_a_template_that_never_ends_is_the_requests_mistake_and_others_go_on(
    make_api: Callable[..., Any], loaded: LoadedModel
) -> None:
    api = make_api(with_template(loaded, ENDLESS))
    refused = [api.chat() for _ in range(2)]

    for response in refused:
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages"
        assert "did not end" in response.json()["error"]["message"]
    assert api.complete().status_code == 200


def test_a_template_gets_the_clients_variables(make_api: Callable[..., Any], loaded: LoadedModel) -> None:
    api = make_api(with_template(loaded, "{{ 'x' * count }}"))

    assert api.chat(chat_template_kwargs={"count": 7}).json()["usage"]["prompt_tokens"] == 7


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "continue_final_message", "truncation", "tools"])
def test_how_a_template_is_run_is_not_the_clients_to_say(api: Any, name: str) -> None:
    response = api.chat(chat_template_kwargs={name: "{{ 7 }}"})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


def test_a_call_within_its_time_is_left_alone() -> None:
    assert within(5, lambda: "done") == "done"
    with pytest.raises(ValueError, match="own"):
        within(5, lambda: str(_raise(ValueError("its own"))))


def test_a_call_that_catches_everything_is_stopped_all_the_same() -> None:
    def stubborn() -> str:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.001)

    with pytest.raises(TimeUpError):
        within(0.05, stubborn)


def test_calls_that_end_as_their_time_does_lose_no_thread() -> None:
    """The alarm and the end race; whichever wins, the caller gets an answer or `TimeUpError` and nothing later."""
    before, ends = threading.active_count(), [0, 0]
    for _ in range(60):
        try:
            within(0.002, lambda: str(time.sleep(0.0019)))
            ends[0] += 1
        except TimeUpError:
            ends[1] += 1
        for _ in range(200):
            pass

    assert sum(ends) == 60
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def _raise(error: Exception) -> None:
    raise error
