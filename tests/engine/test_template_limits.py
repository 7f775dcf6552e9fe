"""A chat template is a program of the checkpoint's: bounded in time, and nothing that a client can replace."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server.engine import rendering, template_sandbox
from server.engine.api_errors import InvalidRequestError
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


PARTS_ALONE = "{% for m in messages %}{% for p in m.content %}{{ p.text if p.type == 'text' }}{% endfor %}{% endfor %}"
EITHER = "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text + '!' }}{% endfor %}"


@pytest.mark.parametrize("content", ["Hello", [{"type": "text", "text": "Hello"}]])
@pytest.mark.parametrize("template", [PARTS_ALONE, EITHER])
def test_a_template_that_shows_parts_alone_gets_parts(
    make_api: Callable[..., Any], loaded: LoadedModel, template: str, content: Any
) -> None:
    api = make_api(with_template(loaded, template))
    body = {"messages": [{"role": "system", "content": "Hi. "}, {"role": "user", "content": content}]}

    assert api.request("POST", "/tokenize", json=body).json()["prompt"] == "Hi. Hello"


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "continue_final_message", "truncation", "tools"])
def test_how_a_template_is_run_is_not_the_clients_to_say(api: Any, name: str) -> None:
    response = api.chat(chat_template_kwargs={name: "{{ 7 }}"})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


GROWING = (
    "{% set n = namespace(x='0123456789') %}{% for i in range(22) %}{% set n.x = STEP %}{% endfor %}{{ n.x|length }}"
)
SHARED = "{% set n = namespace(x=['a']) %}{% for i in range(20) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
GIANTS = (
    "{{ 10 ** (10 ** 6) }}",
    "{{ 10 ** 1000 * 10 ** 1000 }}",
    "{{ 'a' * 20000000 }}",
    "{{ 20000000 * [1] }}",
    "{{ 'a'|center(20000000) }}",
    "{{ 'a'.ljust(20000000) }}",
    "{{ 'a\n\n'|indent(20000000, blank=true) }}",
    "{{ '%20000000d' % 1 }}",
    "{{ '%*d' % (20000000, 1) }}",
    "{{ '%20000000d'|format(1) }}",
    "{{ '{:20000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 20000000) }}",
    "{{ '{:{}99999}'.format(1, 99) }}",
    "{{ '{0.x}{0.x}'.format(namespace(x='a')) }}",
    "{{ '\t'.expandtabs(20000000) }}",
    "{{ (1).to_bytes(20000000) }}",
    "{{ 1.5|round(1000000, 'ceil') }}",
    "{{ [1]|batch(20000000, 'a')|list|length }}",
    "{{ [1]|tojson(indent=20000000) }}",
    "{% set x = 'a' * 10000000 %}{{ x }}{{ x }}",
    "{% filter center(20000000) %}a{% endfilter %}",
    "{{ range(10)|map('center', 20000000)|list|length }}",
    *(
        GROWING.replace("STEP", step)
        for step in (
            "n.x + n.x",
            "n.x ~ n.x",
            "[n.x, n.x]|join",
            "''.join([n.x, n.x])",
            "n.x.replace('0', n.x)",
            "n.x|replace('0', n.x)",
            "'%s%s' % (n.x, n.x)",
            "'{0}{0}'.format(n.x)",
        )
    ),
    *(SHARED + shown for shown in ("{{ n.x }}", "{{ n.x|tojson }}", "{{ {}[n.x].y }}", "{{ raise_exception(n.x) }}")),
)


@pytest.mark.parametrize("template", GIANTS)
def test_no_step_of_a_template_makes_a_giant(
    loaded: LoadedModel, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_CHARS", 1_000_000)
    tokenizer = with_template(loaded, template).tokenizer

    with pytest.raises(InvalidRequestError, match=r"larger|wider|more than|unsafe|looked up"):
        rendering.render(tokenizer, [{"role": "user", "content": "Hi"}], {})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ 2 ** 10 }} {{ 'ab' * 3 }} {{ 7 // 2 }} {{ [1] + [2] }} {{ 1.5 * 2 }}", "1024 ababab 3 [1, 2] 3.0"),
        ("{{ 'a' ~ 1 ~ none ~ ('b' ~ [1, 'x']) ~ nothing }}", "a1Noneb[1, 'x']"),
        (
            "{{ '%s-%05d' % ('x', 3) }} {{ '%(a)s'|format(a=1) }} {{ '{} {:>3} {k}'.format('x', 3, k=1) }}",
            "x-00003 1 x   3 1",
        ),
        ("{{ messages|tojson }}", '[{"role": "user", "content": "Hi"}]'),
        ("{{ messages|join(', ', attribute='role') }} {{ [1, 2]|join(d='-') }}", "user 1-2"),
        ("{{ 'aXb'|replace('X', '1') }} {{ 'aa'.replace('a', 'b', 1) }} {{ 'a'|center(3) }}.", "a1b ba  a ."),
        ("{{ 'a\nb'|indent(2) }} {{ nothing|default(12845056) }} {{ '7'|int + 1 }}", "a\n  b 12845056 8"),
    ],
)
def test_what_templates_do_is_left_as_it_is(loaded: LoadedModel, template: str, text: str) -> None:
    tokenizer = with_template(loaded, template).tokenizer

    assert rendering.render(tokenizer, [{"role": "user", "content": "Hi"}], {}) == text


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
