"""The client against a server that answers, and the records that it hands out."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import prediction_client
from pipeline.prediction_client import PredictionClient, get_client
from registry_hooks.errors import SettingsError
from tests.client.scripted_server import answering, event, saying, streaming

DONE = b"data: [DONE]\n\n"


def test_an_answer_carries_its_text_and_the_version_that_gave_it(server: Any) -> None:
    server.steps = [saying("abc")]

    with PredictionClient(server.url, api_key="k" * 20) as client:
        answer = client.chat("copy abc", max_tokens=8, temperature=0)
    path, headers, body = server.asked[0]

    assert (str(answer), answer.version, answer.step, answer.fingerprint) == ("abc", 7, 250, "mv7-67a621d3")
    assert (answer.model, answer.digest, answer.request_id) == ("tiny", "67a621d3aaaa", "req-1")
    assert (answer.finish_reason, answer.num_prompt_tokens, answer.num_answer_tokens) == ("stop", 3, 2)
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer " + "k" * 20
    assert body == {"messages": [{"role": "user", "content": "copy abc"}], "max_tokens": 8, "temperature": 0}


def test_a_conversation_goes_as_it_is_and_without_a_key_no_key_is_sent(server: Any) -> None:
    server.steps = [saying("x")]
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}]

    with PredictionClient(server.url + "/") as client:
        client.chat(messages)
    _, headers, body = server.asked[0]

    assert body == {"messages": messages}
    assert "authorization" not in headers


def test_a_prefix_of_a_reverse_proxy_is_kept(server: Any) -> None:
    server.steps = [saying("x")]

    with PredictionClient(server.url + "/relay") as client:
        client.chat("hi")

    assert server.asked[0][0] == "/relay/v1/chat/completions"


def test_a_stream_gives_its_pieces_and_knows_its_version_before_the_first(server: Any) -> None:
    server.steps = [streaming(event(""), b": alive\n\n", event("ab"), event("c"), event(finish="stop"), DONE)]

    with PredictionClient(server.url) as client, client.stream("copy abc") as stream:
        version = stream.version
        pieces = list(stream)

    assert (version, pieces) == (7, ["ab", "c"])
    assert (stream.text, stream.step, stream.fingerprint, stream.finish_reason) == ("abc", 250, "mv7-67a621d3", "stop")
    assert server.asked[0][2]["stream"] is True


def test_text_with_unusual_ends_of_lines_and_cut_in_odd_places_arrives_whole(server: Any) -> None:
    text = "a\u2028b\x85c\x0bd é"
    raw = event(text).replace(b"\n\n", b"\r\n\r\n") + event(finish="stop") + DONE
    server.steps = [streaming(*(raw[i : i + 3] for i in range(0, len(raw), 3)))]

    with PredictionClient(server.url) as client:
        pieces = list(client.stream("x"))

    assert pieces == [text]


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_that_is_left_ends_the_request_on_the_server(server: Any, how: str) -> None:
    left = threading.Event()

    def write_on(handler: Any) -> None:
        try:
            while not server.released.wait(0.01):
                handler.wfile.write(event("x"))
        except OSError:
            left.set()

    server.steps = [streaming(event("x"), then=write_on)]
    with PredictionClient(server.url) as client:
        stream = client.stream("go on")
        first = next(stream)
        if how == "close":
            stream.close()
            rest = list(stream)
        else:
            rest = []
            del stream
        has_left = left.wait(10)

    assert (first, rest, has_left) == ("x", [], True)


def test_model_info_is_a_record_and_a_mapping(server: Any) -> None:
    document = {"loaded": True, "server": "box", "name": "tiny", "alias": "Production", "version": 7, "device": "cpu"}
    document |= {"checkpoint_step": 250, "registry_answers": False, "behind_s": 2.5, "reason": "it is silent"}
    server.steps = [answering(document)]

    with PredictionClient(server.url) as client:
        info = client.get_model_info()

    assert (info.loaded, info.version, info.step, info.behind_s, info.registry_answers) == (True, 7, 250, 2.5, False)
    assert (info["device"], info.get("nothing"), dict(info)) == ("cpu", None, document)


@pytest.mark.parametrize(
    ("status", "word", "is_good"),
    [(200, "reloaded", True), (202, "pending", False), (409, "refused", False), (503, "registry_unreachable", False)],
)
def test_every_outcome_of_a_reload_is_a_value(server: Any, status: int, word: str, is_good: bool) -> None:
    document = {"status": word, "reason": "why", "version": 6, "checkpoint_step": 5, "desired_version": 7}
    server.steps = [answering(document, status=status)]

    with PredictionClient(server.url) as client:
        outcome = client.reload_model(force=True, timeout_s=5)

    assert (outcome.status, bool(outcome), outcome.reason) == (word, is_good, "why")
    assert (outcome.version, outcome.step, outcome.desired_version) == (6, 5, 7)
    assert server.asked == [("/models/reload?dry_run=false&force=true&timeout_s=5", *server.asked[0][1:])]


def test_a_dry_run_has_a_plan(server: Any) -> None:
    server.steps = [answering({"status": "planned", "reason": "", "action": "load", "plan": {"mode": "beside"}})]

    with PredictionClient(server.url) as client:
        outcome = client.reload_model(dry_run=True)

    assert (bool(outcome), outcome.action, outcome.plan) == (True, "load", {"mode": "beside"})


def test_health_is_true_only_when_a_model_answers(server: Any) -> None:
    not_ready = answering({"status": "not ready", "reason": "no model yet"}, status=503)
    server.steps = [answering({"status": "ready", "reason": "it serves"}), not_ready]

    with PredictionClient(server.url) as client:
        ready, waiting = client.health_check(), client.health_check()

    assert (bool(ready), ready.is_alive, ready.reason) == (True, True, "it serves")
    assert (bool(waiting), waiting.is_alive, waiting.reason) == (False, True, "no model yet")


def test_many_threads_share_one_client(server: Any) -> None:
    server.steps = [saying("abc")]

    with PredictionClient(server.url) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.chat("x").text, range(40)))

    assert answers == ["abc"] * 40


@pytest.mark.parametrize("url", ["inference-box:8765", "ftp://box", "http://", "http://a:secret@box", "http://[::"])
def test_an_address_that_is_none_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PredictionClient(url)

    assert "secret" not in str(caught.value)


def test_the_shared_client_is_one_until_it_is_closed_and_reads_the_environment(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction_client, "_shared", [])
    monkeypatch.setenv("RELAY_CLIENT__BASE_URL", server.url)
    monkeypatch.setenv("RELAY_SERVE__API_KEY", "a-key-of-the-test")
    server.steps = [saying("abc")]

    first, same = get_client(), get_client()
    first.chat("x")
    first.close()
    other = get_client()
    other.close()
    monkeypatch.delenv("RELAY_CLIENT__BASE_URL")
    monkeypatch.setenv("RELAY_SERVE__PORT", "9123")
    local = get_client()
    local.close()
    monkeypatch.setenv("RELAY_SERVE__HOST", "::")
    anywhere = get_client()
    anywhere.close()

    assert first is same
    assert other is not first
    assert server.asked[0][1]["authorization"] == "Bearer a-key-of-the-test"
    assert local.base_url == "http://127.0.0.1:9123"
    assert anywhere.base_url == "http://[::1]:9123"


def test_a_child_of_a_fork_gets_a_client_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction_client, "_shared", [])

    ours = get_client()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    of_the_child = get_client()
    ours.close()
    of_the_child.close()

    assert of_the_child is not ours
