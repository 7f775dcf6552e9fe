"""Our own client against a real gateway: answers, streams, reloads, and a version that changes under it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.prediction.errors import RequestRefusedError
from pipeline.prediction_client import PredictionClient

pytestmark = pytest.mark.integration

OPTIONS = {"max_tokens": 8, "temperature": 0}
KEY = "a-key-of-the-tests-0123456789"


def test_the_client_sees_each_version_by_answer_stream_and_info(gateway: Any, served_model: str, person: Any) -> None:
    with PredictionClient(gateway.url) as client:
        first, streamed = client.chat("copy abc", **OPTIONS), client.stream("copy abc", **OPTIONS)
        text = "".join(streamed)
        person.set_registered_model_alias(served_model, "Production", 2)
        plan = client.reload_model(dry_run=True)
        outcome = client.reload_model()
        second, info, health = client.chat("copy abc", **OPTIONS), client.get_model_info(), client.health_check()

    assert (first.version, first.step, second.version, second.step) == (1, 10, 2, 20)
    assert (text, streamed.version, streamed.fingerprint) == (first.text, 1, first.fingerprint)
    assert (first.finish_reason, first.num_answer_tokens) == ("length", 8)
    assert bool(plan)
    assert (outcome.status in ("reloaded", "unchanged"), outcome.version, outcome.step) == (True, 2, 20)
    assert (info.version, info.fingerprint, info["attested"]) == (2, second.fingerprint, True)
    assert bool(health)


def test_a_stream_that_the_client_leaves_is_ended_at_the_server(gateway: Any) -> None:
    with PredictionClient(gateway.url) as client:
        with client.stream("go on", max_tokens=200) as stream:
            next(stream)
        deadline = time.monotonic() + 20
        while client.get_model_info()["requests_in_flight"] and time.monotonic() < deadline:
            time.sleep(0.05)
        in_flight = client.get_model_info()["requests_in_flight"]

    assert in_flight == 0
    assert stream.finish_reason is None


def test_the_key_opens_what_is_locked(start_gateway: Callable[..., Any], served_model: str, person: Any) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_SERVE__API_KEY=KEY)
    gateway.wait_for_version(1)

    with PredictionClient(gateway.url, api_key=KEY) as client, PredictionClient(gateway.url) as stranger:
        answer = client.chat("copy abc", **OPTIONS)
        with pytest.raises(RequestRefusedError, match="RELAY_SERVE__API_KEY"):
            stranger.chat("copy abc", **OPTIONS)

    assert answer.version == 1
