"""`engine.command`: another OpenAI server in the engine's place."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from registry_hooks import command_template, golden, settings
from registry_hooks.errors import DeclinedError, SettingsError
from registry_hooks.golden import GoldenItem, GoldenSet, GreedyToken
from server.engine_spec import EngineReady, EngineSpec
from server.gateway.checking import check_golden

PROGRAM = Path(__file__).parent / "programs" / "small_openai_server.py"
SMALL = f"{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))} --dir {{dir}} --port {{port}} --name {{name}}"
TRANSFORMERS = (
    f"{shlex.quote(str(Path(sys.executable).with_name('transformers')))} serve {{dir}} --continuous-batching "
    "--device cpu --dtype float32 --host 127.0.0.1 --port {port}"
)
RECORDED = GoldenSet(
    items=(
        GoldenItem(
            prompt="1 + 1 =",
            token_logprobs=(-1.0, -2.0),
            greedy=(GreedyToken(text=" 2", gap=5.0), GreedyToken(text=".", gap=3.0), GreedyToken(text="?", gap=0.1)),
        ),
    ),
    device="cpu",
    dtype="float32",
)


def test_a_folder_with_a_space_stays_one_word() -> None:
    words = command_template.fill("vllm serve {dir} --port {port}", dir="/my models/a", port="9", name="", uds="")

    assert words == ["vllm", "serve", "/my models/a", "--port", "9"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("vllm serve {dir}", r"\{port\} or \{uds\}"),
        ("vllm serve --port {port}", r"\{dir\}"),
        ("vllm serve {dir} --port {port} --uds {uds}", "not both"),
        ("vllm serve {folder} --port {port}", r"names \{folder\}"),
        ("vllm serve '{dir} --port {port}", "no command line"),
    ],
)
def test_a_command_that_cannot_work_is_refused_with_the_reason(template: str, says: str) -> None:
    with pytest.raises(SettingsError, match=rf"engine\.command.*{says}"):
        settings.load(environ={"RELAY_ENGINE__COMMAND": template})


def a_substitute(answer: Callable[[httpx.Request], httpx.Response]) -> Any:
    ready = EngineReady(
        device="unknown",
        dtype="unknown",
        vram_bytes=0,
        rss_bytes=0,
        num_parameters=0,
        max_model_len_tokens=0,
        load_s=0.0,
        base_url="http://other",
        model_name="m",
    )
    transport = httpx.MockTransport(answer)
    return SimpleNamespace(
        spec=EngineSpec(checkpoint_dir="d", uds="u", model_name="m", command="other {dir} {port}"),
        ready=ready,
        model_name="m",
        client=lambda timeout_s: httpx.Client(transport=transport, base_url="http://other"),
    )


def completion(text: str, logprobs: dict[str, Any] | None = None) -> httpx.Response:
    choice = {"text": text, "logprobs": logprobs}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 3}})


def test_log_probabilities_are_compared_where_the_program_gives_them() -> None:
    def answer(shift: float) -> Callable[[httpx.Request], httpx.Response]:
        tokens = ["1", " +", " 1", " 2", ".", "?"]
        values = [None, -1.0 + shift, -2.0 + shift, -0.1, -0.1, -0.1]
        tops: list[Any] = [None, *({"a": -9.0} for _ in values[1:])]
        body = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
        return lambda request: completion("", body)

    assert "reproduced: mean 0.01" in check_golden(a_substitute(answer(0.01)), RECORDED, required=True)
    with pytest.raises(DeclinedError, match=r"differ.*engine\.command"):
        check_golden(a_substitute(answer(0.5)), RECORDED, required=True)


def test_a_program_without_log_probabilities_is_checked_by_its_greedy_text() -> None:
    verdict = check_golden(a_substitute(lambda request: completion(" 2.!")), RECORDED, required=True)

    assert "as text only, ' 2.'" in verdict
    with pytest.raises(DeclinedError, match=r"' 3\.' in place of ' 2\.'"):
        check_golden(a_substitute(lambda request: completion(" 3.")), RECORDED, required=False)


def test_a_program_that_only_chats_cannot_be_checked_and_require_golden_refuses_it() -> None:
    engine = a_substitute(lambda request: httpx.Response(404, json={"error": {}}))

    assert "could not be checked" in check_golden(engine, RECORDED, required=False)
    with pytest.raises(DeclinedError, match="require_golden of this box is on"):
        check_golden(engine, RECORDED, required=True)


def test_a_text_says_nothing_when_the_first_token_was_a_near_tie() -> None:
    item = GoldenItem(prompt="p", token_logprobs=(-1.0,), greedy=(GreedyToken(text="a", gap=0.5),))

    assert golden.compare_text(GoldenSet(items=(item,), device="cpu", dtype="float32"), "b") is None


def programs_of(gateway: Any) -> list[psutil.Process]:
    return [p for p in psutil.Process(gateway.process.pid).children(recursive=True) if PROGRAM.name in str(p.cmdline())]


def are_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.integration
def test_transformers_serve_stands_in_for_the_engine(start_gateway: Any, served_model: str, person: Any) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_ENGINE__COMMAND=TRANSFORMERS)

    info = gateway.wait_for_version(1)
    answer = gateway.chat(model=f"{served_model}@Production")
    with gateway.client.stream("POST", f"{gateway.url}/v1/chat/completions", json=stream_body()) as stream:
        text = "".join(stream.iter_text())
    person.set_registered_model_alias(served_model, "Production", 2)
    second = gateway.wait_for_version(2)
    family = psutil.Process(gateway.process.pid).children(recursive=True)
    gateway.stop()

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"
    assert answer.headers["x-relay-version"] == "1"
    assert text.count("data: {") > 2
    assert '"error"' not in text
    assert (info["device"], second["version"]) == ("unknown", 2)
    assert "golden" in info["last_reload"]["golden"]
    assert are_gone(family)
    person.set_registered_model_alias(served_model, "Production", 1)


def stream_body() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 16}


@pytest.mark.integration
def test_a_program_that_dies_is_started_again_and_leaves_nothing_behind(
    start_gateway: Any, served_model: str, person: Any
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_ENGINE__COMMAND=SMALL)
    info = gateway.wait_for_version(1)
    before = programs_of(gateway)

    os.kill(info["engine_pid"], signal.SIGKILL)
    first_are_gone = are_gone(before)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and gateway.info().get("engine_pid") in (info["engine_pid"], None):
        time.sleep(0.1)
    answer = gateway.chat(temperature=1)  # the program takes what is greedy for a golden question
    after = programs_of(gateway)
    gateway.process.kill()

    assert len(before) == 1
    assert first_are_gone
    assert answer.json()["choices"][0]["message"]["content"] == "other words"
    assert len(after) == 1
    assert are_gone(after)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{SMALL} --fails", "ended with code 1 before it answered"),
        ("no-such-program {dir} {port}", "cannot be started"),
    ],
)
def test_a_program_that_does_not_start_is_named_and_nothing_is_served(
    start_gateway: Any, served_model: str, command: str, says: str
) -> None:
    gateway = start_gateway(served_model, RELAY_ENGINE__COMMAND=command)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and gateway.info()["last_reload"] is None:
        time.sleep(0.1)

    info = gateway.info()

    assert not info["loaded"]
    assert says in json.dumps(info["last_reload"])
