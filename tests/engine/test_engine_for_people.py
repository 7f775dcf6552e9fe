"""The command for people, and real OpenAI clients that talk to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.integration

WAIT_S = 90
GREETING: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def people(checkpoint: Path) -> Iterator[str]:
    """The URL that the command for people prints."""
    command = [
        sys.executable,
        "-m",
        "server.engine",
        str(checkpoint),
        "--port",
        "0",
        "--device",
        "cpu",
        "--num-threads",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: http://127.0.0.1:")
        yield line.split()[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130


def test_the_openai_client_chats(people: str) -> None:
    with openai.OpenAI(base_url=people, api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        answer = client.chat.completions.create(model=model, messages=GREETING, max_tokens=8, temperature=0)

    assert model == "lively"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_the_openai_client_streams(people: str) -> None:
    options: dict[str, Any] = {"model": "lively", "messages": GREETING, "max_tokens": 8, "temperature": 0}
    with openai.OpenAI(base_url=people, api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**options).choices[0].message.content
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens == 8


def test_the_openai_client_gets_its_own_errors(people: str) -> None:
    with openai.OpenAI(base_url=people, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as lost:
            client.chat.completions.create(model="other", messages=GREETING)
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="lively", messages=GREETING, extra_body={"best_of": 3})

    assert lost.value.code == "model_not_found"
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "best_of")


def test_a_port_in_use_is_the_users_mistake(people: str, checkpoint: Path) -> None:
    port = people.rsplit(":", 1)[1].removesuffix("/v1")

    assert mistake(str(checkpoint), "--port", port) == f"error: port {port} of 127.0.0.1 is in use"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nowhere/at/all", "--port", "0"], "is no folder; nothing was loaded or published: pass a checkpoint folder"),
        ([".", "--port", "0", "--host", "10.0.0.1"], "error: --host 10.0.0.1 would let other machines in"),
        (["."], "error: one of the arguments --port --uds is required"),
        ([".", "--port", "70000"], "error: argument --port: a port is between 0 and 65535"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: list[str], says: str) -> None:
    assert mistake(*arguments).endswith(says)


def mistake(*arguments: str) -> str:
    """What stderr says, up to the first colon or semicolon of the advice."""
    command = [sys.executable, "-m", "server.engine", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)

    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.strip().splitlines()[-1].partition(": nothing was")[0].partition(", and an engine")[0]


def test_help_is_light() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "server.engine", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)

    assert done.returncode == 0
    assert "DIR" in done.stdout
    assert " torch" not in done.stderr


FAILING = """
import sys
from server.engine import batching, command

def step(self):
    raise RuntimeError("CUDA error: device-side assert triggered")

batching.Batch.step = step
sys.exit(command.main(sys.argv[1:]))
"""


def test_an_engine_whose_model_fails_every_time_ends_so_that_another_can_begin(checkpoint: Path) -> None:
    command = [sys.executable, "-c", FAILING, str(checkpoint), "--port", "0", "--device", "cpu", "--num-threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split()[1]
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            for _ in range(2):
                with pytest.raises(openai.InternalServerError, match="the model failed"):
                    client.chat.completions.create(model="lively", messages=GREETING, max_tokens=8)

        assert process.wait(WAIT_S) == 1
        assert "error: the model failed several steps in a row" in process.stderr.read()
