"""What the engine answers beside completions: models, health, metrics; and what it does when a client leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message

from server.engine.asks import Ask, Event, TokenMade
from server.engine.loading import LoadedModel
from tests.engine.scripted_model import saying


class TestOtherPages:
    def test_models_are_listed_and_found(self, api: Any) -> None:
        card = api.get("/v1/models").json()["data"][0]

        assert (card["id"], card["object"], card["max_model_len"]) == ("demo", "model", 256)
        assert api.get("/v1/models/demo").json() == api.get("/v1/models/demo@Production").json() == card

    def test_health_says_who_and_what(self, api: Any) -> None:
        health = api.get("/health").json()

        assert (health["status"], health["model_name"], health["device"], health["dtype"]) == (
            "ok",
            "demo",
            "cpu",
            "float32",
        )
        assert health["rss_bytes"] > health["vram_bytes"] == 0
        assert health["num_waiting"] == 0
        assert health["num_kv_tokens"] >= 256
        assert health["one_at_a_time_because"] is None

    def test_metrics_count_tokens_and_ends(self, make_api: Any) -> None:
        api = make_api(generate=saying("four"))
        api.chat()
        text = api.get("/metrics").text

        assert "relay_engine_generated_tokens_total 4.0" in text
        assert 'relay_engine_requests_total{outcome="length"} 1.0' in text
        assert "relay_engine_time_to_first_token_seconds_count 1.0" in text
        assert "relay_engine_inter_token_seconds_count 3.0" in text
        assert "relay_engine_kv_used_tokens 0.0" in text


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/demo", "/openapi.json"])
def test_head_is_answered_wherever_get_is(api: Any, path: str) -> None:
    assert api.request("HEAD", path).status_code == api.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": "hello", "max_tokens": 1}, 200),
        ("/v1/completions", {"prompt": "hello", "max_tokens": 1, "stream": True}, 200),
        ("/v1/completions", {"prompt": 7}, 400),
        ("/nowhere", {}, 404),
    ],
)
def test_an_answer_bears_the_id_of_its_request(api: Any, path: str, body: dict[str, Any], status: int) -> None:
    with_id = api.request("POST", path, json=body, headers={"x-request-id": "mine" + "!" * 200})
    without = api.request("POST", path, json=body)

    assert (with_id.status_code, with_id.headers.get_list("x-request-id")) == (status, ["mine" + "!" * 96])
    assert "x-request-id" not in without.headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work(make_api: Any, stream: bool) -> None:
    steps: list[int] = []

    def endless(_: LoadedModel, __: Ask) -> Iterator[list[Event]]:
        while len(steps) < 1_000_000:
            steps.append(1)
            time.sleep(0.001)
            yield [TokenMade(token_id=65)]

    api = make_api(generate=endless)

    async def visit() -> None:
        left = asyncio.Event()
        body = json.dumps({"prompt": "hi", "stream": stream, "max_tokens": 200}).encode()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Message:
            if message := next(messages, None):
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            return

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
        visiting = asyncio.create_task(api.app(scope, receive, send))
        while len(steps) < 3:
            await asyncio.sleep(0.01)
        left.set()
        await asyncio.wait_for(visiting, 20)

    asyncio.run(visit())
    deadline = time.monotonic() + 20
    while api.running.engine.num_running and time.monotonic() < deadline:
        time.sleep(0.01)

    assert api.running.engine.num_running == 0
    assert len(steps) < 1_000_000
    assert 'outcome="cancelled"} 1.0' in api.get("/metrics").text
