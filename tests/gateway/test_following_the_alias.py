"""The gateway as people meet it: real registry, real store, real engines."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.integration

Start = Callable[..., Any]


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_the_alias_is_followed_there_and_back_and_streams_end_where_they_began(
    gateway: Any, served_model: str, person: Any
) -> None:
    first = gateway.info()
    stream_body = {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "max_tokens": 120,
    }

    with gateway.client.stream("POST", f"{gateway.url}/v1/chat/completions", json=stream_body) as stream:
        person.set_registered_model_alias(served_model, "Production", 2)
        second = gateway.wait_for_version(2, timeout_s=30)
        text = "".join(stream.iter_text())
    after = gateway.chat()
    person.set_registered_model_alias(served_model, "Production", 1)
    back = gateway.wait_for_version(1)

    assert stream.headers["x-relay-version"] == "1"
    assert {event["system_fingerprint"] for event in events_of(text)} == {first["fingerprint"]}
    assert text.rstrip().endswith("data: [DONE]")
    assert after.headers["x-relay-version"] == "2"
    assert after.json()["system_fingerprint"] == second["fingerprint"] != first["fingerprint"]
    assert (first["checkpoint_step"], second["checkpoint_step"]) == (10, 20)
    assert first["attested"] is True
    assert first["score"] == pytest.approx(2.0)
    assert second["previous_version"] == 1
    assert {"fetch", "verify", "start", "golden", "warm", "flip"} <= set(second["last_reload"]["seconds"])
    assert set(back["last_reload"]["seconds"]) == {"flip"}


def test_the_registry_is_told_what_is_served_and_each_deployment_is_a_run(
    start_gateway: Start, served_model: str, person: Any
) -> None:
    person.set_registered_model_alias(served_model, "Production", 2)
    gateway = start_gateway(served_model, RELAY_SERVE__SERVER_NAME="box-a")
    gateway.wait_for_version(2)
    exit_code = gateway.stop()

    heartbeat = json.loads(person.get_registered_model(served_model).tags["relay.server.box-a"])
    experiment = person.get_experiment_by_name(f"{served_model}/deployments")
    runs = person.search_runs([experiment.experiment_id], "params.server = 'box-a'")
    run = runs[0].data

    assert exit_code == 0
    assert (heartbeat["serving"], heartbeat["step"], heartbeat["stopped"]) == (2, 20, True)
    assert (run.params["version"], run.params["step"], run.params["outcome"]) == ("2", "20", "served")
    assert run.metrics["seconds/start"] > 0
    assert run.metrics["bytes"] > 1_000_000


def test_a_deleted_alias_keeps_the_model_in_service(gateway: Any, served_model: str, person: Any) -> None:
    person.delete_registered_model_alias(served_model, "Production")

    answer = gateway.client.post(f"{gateway.url}/models/reload")

    assert answer.status_code == 409
    assert answer.json()["status"] == "no_alias"
    assert "no alias" in gateway.info()["reason"]
    assert gateway.chat().status_code == 200


def test_the_names_of_live_versions_choose_the_engine(gateway: Any, served_model: str, person: Any) -> None:
    person.set_registered_model_alias(served_model, "Production", 2)
    gateway.wait_for_version(2)

    versions = {
        name: gateway.chat(model=name).headers.get("x-relay-version")
        for name in (served_model, f"{served_model}@Production", f"{served_model}/1", f"{served_model}/2")
    }
    unknown = gateway.chat(model="gpt-4")

    assert list(versions.values()) == ["2", "2", "1", "2"]
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    listed = gateway.client.get(f"{gateway.url}/v1/models").json()["data"]
    assert {card["id"] for card in listed} == set(versions)
    assert gateway.client.get(f"{gateway.url}/v1/models/{served_model}/1").json()["metadata"]["step"] == "10"


def test_an_engine_killed_in_a_stream_gives_an_error_event_and_the_next_request_is_answered(
    gateway: Any, served_model: str, person: Any
) -> None:
    pid = gateway.info()["engine_pid"]
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 200}
    pieces = []

    with gateway.client.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as stream:
        for piece in stream.iter_text():
            if not pieces:
                os.kill(pid, signal.SIGSTOP)  # hold it, so that it cannot finish first
                os.kill(pid, signal.SIGKILL)
            pieces.append(piece)
    after = gateway.chat()

    last = events_of("".join(pieces))[-1]
    assert last["error"]["code"] == "engine_died"
    assert after.status_code == 200
    assert after.headers["x-relay-version"] == "1"
    assert gateway.info()["engine_pid"] != pid


def test_no_engine_outlives_a_killed_gateway(
    start_gateway: Start, served_model: str, person: Any, tmp_path: Path
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    serving, loading = start_gateway(served_model), start_gateway(served_model, cache=tmp_path / "other")
    serving.wait_for_version(1)
    children = [child for gateway in (serving, loading) for child in gateway.engines()]
    assert len(children) >= 2

    for gateway in (serving, loading):
        gateway.process.kill()
    _, alive = psutil.wait_procs(children, timeout=3)

    assert not alive
    again = start_gateway(served_model)
    assert again.wait_for_version(1)["last_reload"]["downloaded_bytes"] == 0


def test_a_busy_port_and_an_open_door_without_a_key_are_refused(start_gateway: Start, served_model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = start_gateway(served_model, wait=False, RELAY_SERVE__PORT=str(taken.getsockname()[1]))
        assert busy.process.wait(30) == 2
    opened = start_gateway(served_model, wait=False, RELAY_SERVE__HOST="0.0.0.0")  # noqa: S104
    typo = start_gateway(served_model, wait=False, RELAY_SERVE__PROT="1")

    assert "is in use" in busy.log.read_text()
    assert opened.process.wait(30) == 2
    assert "RELAY_SERVE__API_KEY" in opened.log.read_text()
    assert typo.process.wait(30) == 2
    assert "did you mean serve.port?" in typo.log.read_text()


def test_a_key_is_asked_for_where_one_is_set(start_gateway: Start, served_model: str, person: Any) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_SERVE__API_KEY="sesame")
    gateway.wait_for_version(1)
    key = {"Authorization": "Bearer sesame"}

    without = [gateway.chat(), gateway.client.post(f"{gateway.url}/models/reload")]
    reloaded = gateway.client.post(f"{gateway.url}/models/reload", headers=key)
    gateway.client.headers.update(key)

    assert [answer.status_code for answer in without] == [401, 401]
    assert without[0].json()["error"]["code"] == "invalid_api_key"
    assert reloaded.json()["status"] == "unchanged"
    assert gateway.chat().status_code == 200
    assert "sesame" not in gateway.log.read_text()


def test_bad_requests_get_openai_errors_and_hurt_nobody(gateway: Any, served_model: str, person: Any) -> None:
    url = f"{gateway.url}/v1/chat/completions"
    bodies: list[bytes] = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": 3}', b'{"messages": []}', b"[" * 100_000]
    bodies += [
        b'{"messages": [{"role": "king", "content": "x"}]}',
        b'{"messages": [{"role": "user"}], "temperature": -1}',
    ]

    answers = [gateway.client.post(url, content=body, headers={"content-type": "application/json"}) for body in bodies]
    answers.append(gateway.client.post(url, content=b"x" * 9_000_000))
    answers.append(gateway.client.get(f"{gateway.url}/v1/nothing"))
    answers.append(gateway.client.post(f"{gateway.url}/models/reload?timeout_s=NaN"))

    for answer in answers:
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.status_code != 422
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
    assert gateway.chat().status_code == 200


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    start_gateway: Start, served_model: str, person: Any
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_SERVE__POLL_S="3600")
    gateway.wait_for_version(1)
    person.set_registered_model_alias(served_model, "Production", 2)

    plan = gateway.client.post(f"{gateway.url}/models/reload?dry_run=true").json()
    unchanged = gateway.info()["version"]
    reloaded = gateway.client.post(f"{gateway.url}/models/reload")

    assert (plan["status"], plan["action"], plan["plan"]["mode"]) == ("planned", "load", "beside")
    assert unchanged == 1
    assert (reloaded.status_code, reloaded.json()["status"]) == (200, "reloaded")
    assert (reloaded.json()["version"], reloaded.json()["checkpoint_step"]) == (2, 20)


def test_requests_before_the_first_load_are_told_to_come_back(start_gateway: Start, stack: Any) -> None:
    gateway = start_gateway(f"nothing-{uuid.uuid4().hex[:6]}")

    answer = gateway.chat()

    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "model_loading"
    assert gateway.client.get(f"{gateway.url}/health").status_code == 200
    assert gateway.client.get(f"{gateway.url}/ready").status_code == 503


def test_no_request_fails_while_the_alias_goes_back_and_forth(gateway: Any, served_model: str, person: Any) -> None:
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(gateway.chat(stream=True, max_tokens=16))

    workers = [threading.Thread(target=ask) for _ in range(2)]
    for worker in workers:
        worker.start()
    for version in (2, 1, 2):
        person.set_registered_model_alias(served_model, "Production", version)
        gateway.wait_for_version(version)
    stop.set()
    for worker in workers:
        worker.join()

    assert answers
    for answer in answers:
        assert answer.status_code == 200
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert len({event["system_fingerprint"] for event in events_of(answer.text)}) == 1
    assert {answer.headers["x-relay-version"] for answer in answers} == {"1", "2"}
