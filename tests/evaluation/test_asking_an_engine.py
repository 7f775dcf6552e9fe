"""Many questions at once: busy servers are asked again, everything else is an error that names the item."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.evaluation.asking import Asker, each, retry_after_s
from pipeline.evaluation.question import Question
from registry_hooks.errors import EvaluationError

QUESTION = Question(path="/v1/completions", body={"prompt": "x"})
Reply = tuple[int, str, dict[str, str]]


class Script:
    """A server that gives the answers it was told, in order, the last one for ever; and what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [(200, "{}", {})]
        self.asked: list[dict[str, Any]] = []
        self.wait_s = 0.0

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            script.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            time.sleep(script.wait_s)
            status, text, headers = script.next()
            self.send_response(status)
            for name, value in {"content-length": str(len(text.encode())), **headers}.items():
                self.send_header(name, value)
            with contextlib.suppress(BrokenPipeError):  # who asked has given up
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(url: str) -> Callable[..., Any]:
    def one(*, base_url: str = url, timeout_s: float = 10.0) -> Any:
        async def go() -> Any:
            async with Asker(uds="", base_url=base_url, model="m", timeout_s=timeout_s) as asker:
                return await asker.ask(QUESTION, item_id="q1")

        return asyncio.run(go())

    return one


def test_the_question_goes_out_with_the_model(ask: Callable[..., Any], script: Script) -> None:
    script.replies = [(200, '{"a": 1}', {})]

    assert ask() == {"a": 1}
    assert script.asked == [{"model": "m", "prompt": "x"}]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_engine_is_asked_again_when_it_says_so(ask: Callable[..., Any], script: Script, status: int) -> None:
    busy = (status, "{}", {"retry-after": "0.3"})
    script.replies = [busy, busy, (200, '{"a": 1}', {})]
    started = time.monotonic()

    assert ask() == {"a": 1}
    assert time.monotonic() - started >= 0.6
    assert len(script.asked) == 3


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [(None, 1.0), ("2", 2.0), ("0", 0.05), ("-3", 0.05), ("600", 10.0), ("nan", 1.0), ("Wed, 21 Oct 2026", 1.0)],
)
def test_the_wait_has_bounds(header: str | None, wait_s: float) -> None:
    assert retry_after_s(header) == wait_s


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_refusal_names_the_item_and_shows_why(ask: Callable[..., Any], script: Script, status: int) -> None:
    script.replies = [(status, '{"error": {"message": "too long"}}', {})]

    with pytest.raises(EvaluationError, match=rf"item 'q1'.*HTTP {status}.*too long") as refused:
        ask()

    assert not refused.value.transient


def test_an_answer_that_is_no_json_is_an_error(ask: Callable[..., Any], script: Script) -> None:
    script.replies = [(200, "<html>", {})]

    with pytest.raises(EvaluationError, match=r"item 'q1'.*not JSON"):
        ask()


def test_silence_is_an_error_that_may_pass(ask: Callable[..., Any], script: Script) -> None:
    script.wait_s = 1.0

    with pytest.raises(EvaluationError, match=r"item 'q1'.*within 0.2 s") as refused:
        ask(timeout_s=0.2)

    assert refused.value.transient


def test_nobody_there_is_an_error_that_may_pass(ask: Callable[..., Any]) -> None:
    with pytest.raises(EvaluationError, match=r"item 'q1'.*went away") as refused:
        ask(base_url="http://127.0.0.1:9")

    assert refused.value.transient


def test_answers_keep_the_order_of_the_items_and_so_many_run_at_once() -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002 * (number % 3))
        running -= 1
        return number * 2

    found = asyncio.run(each(range(20), work, num_at_once=4))

    assert found == [number * 2 for number in range(20)]
    assert most == 4


def test_the_first_failure_ends_all() -> None:
    begun: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0.01)
        if number == 1:
            raise EvaluationError("one", stage="asking")
        return number

    with pytest.raises(EvaluationError, match="one"):
        asyncio.run(each(range(100), work, num_at_once=2))

    assert len(begun) < 6
