"""Engines as processes: the protocol with the parent and the end of the parent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from server.engine.listening import listen_on_uds
from server.engine_spec import EngineEvent, EngineSpec

pytestmark = pytest.mark.integration

WAIT_S = 90
GREETING: list[Any] = [{"role": "user", "content": "hi"}]


class Child:
    """A supervised engine, seen from its parent."""

    def __init__(self, **environ: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-test-"))  # a socket's path must be short
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.engine", "--supervised"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | environ,
            )
        self._stdout, self._pending = self.process.stdout, b""

    def spec(self, checkpoint: Path, **options: Any) -> EngineSpec:
        return EngineSpec(
            checkpoint_dir=str(checkpoint), uds=str(self.folder / "s"), model_name="demo", device="cpu", **options
        )

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def next_event(self) -> EngineEvent:
        assert self._stdout is not None
        deadline = time.monotonic() + WAIT_S
        while b"\n" not in self._pending:
            readable, _, _ = select.select([self._stdout], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self._stdout.fileno(), 65536) if readable else b""
            assert chunk, f"no event; log: {(self.folder / 'log').read_text()[-2000:]}"
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return EngineEvent.from_line(line)

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.folder / "s"))
        return httpx.Client(transport=transport, base_url="http://engine", timeout=WAIT_S)

    def orphan(self) -> None:
        """What the kernel does when the parent dies."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                cast("Any", pipe).close()
        shutil.rmtree(self.folder)


@pytest.fixture
def make_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(**environ: str) -> Child:
        children.append(Child(**environ))
        return children[-1]

    yield make
    for child in children:
        child.close()


@pytest.fixture(scope="module")
def served(checkpoint: Path) -> Iterator[Child]:
    """A spare that was given a spec."""
    child = Child()
    events = [child.next_event().event]
    child.send(child.spec(checkpoint, fingerprint="v7-abc", num_threads=1).to_line())
    events += [child.next_event().event, child.next_event().event]
    assert events == ["imported", "loaded", "ready"]
    yield child
    child.close()


def test_a_ready_engine_answers_over_its_socket(served: Child) -> None:
    with served.client() as client:
        answer = client.post("/v1/chat/completions", json={"messages": GREETING, "max_tokens": 5}).json()
        health = client.get("/health").json()

    assert answer["system_fingerprint"] == "v7-abc"
    assert answer["usage"]["completion_tokens"] == 5
    assert (health["model_name"], health["max_model_len_tokens"]) == ("demo", 256)


def test_the_socket_is_private(served: Child) -> None:
    assert (served.folder / "s").stat().st_mode & 0o777 == 0o600


def test_nothing_but_events_comes_on_stdout(served: Child) -> None:
    assert served._pending == b""


def test_health_answers_while_a_stream_is_made(served: Child) -> None:
    body = {"prompt": "hi", "max_tokens": 250, "stream": True, "temperature": 0}
    with served.client() as client, client.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert client.get("/health").status_code == 200
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_client_that_hangs_up_frees_the_engine(served: Child) -> None:
    body = {"prompt": "hi", "max_tokens": 250, "stream": True, "temperature": 0}
    with served.client() as client:
        for _ in range(5):
            with client.stream("POST", "/v1/completions", json=body) as stream:
                next(stream.iter_lines())
        deadline = time.monotonic() + WAIT_S
        while (health := client.get("/health").json())["num_running"] and time.monotonic() < deadline:
            time.sleep(0.02)
        answer = client.post("/v1/completions", json=body | {"stream": False, "max_tokens": 1})

    assert (health["num_running"], health["num_waiting"], answer.status_code) == (0, 0, 200)


def test_a_folder_that_cannot_be_served_is_named_and_ends_the_process(
    make_child: Callable[..., Child], checkpoint: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-1000])
    child = make_child()
    child.send(child.spec(broken).to_line())  # before it is imported: a start without a spare
    events = [child.next_event(), child.next_event()]

    assert [(event.event, event.stage) for event in events] == [("imported", ""), ("failed", "load")]
    assert "truncated" in events[1].reason
    assert child.process.wait(WAIT_S) == 1


def test_a_socket_that_cannot_be_is_a_failure_to_listen(make_child: Callable[..., Child], checkpoint: Path) -> None:
    child = make_child()
    (child.folder / "s").write_text("a file of somebody's")
    child.send(child.spec(checkpoint).to_line())
    events = [child.next_event() for _ in range(3)]

    assert (events[2].event, events[2].stage) == ("failed", "listen")
    assert "no socket" in events[2].reason
    assert child.process.wait(WAIT_S) == 1
    assert (child.folder / "s").read_text() == "a file of somebody's"


def test_a_line_that_is_no_spec_is_a_failure(make_child: Callable[..., Child]) -> None:
    child = make_child()
    child.send(b'{"checkpoint": "typo"}\n')
    child.next_event()

    assert "no engine spec" in child.next_event().reason
    assert child.process.wait(WAIT_S) == 1


def test_a_torch_that_cannot_be_imported_is_named(make_child: Callable[..., Child], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    child = make_child(PYTHONPATH=str(tmp_path))
    event = child.next_event()

    assert (event.event, event.stage) == ("failed", "import")
    assert "libcudart.so.13" in event.reason
    assert child.process.wait(WAIT_S) == 1


def test_sigterm_ends_a_process_that_still_imports(make_child: Callable[..., Child]) -> None:
    child = make_child()
    time.sleep(0.5)
    child.process.send_signal(signal.SIGTERM)

    assert child.process.wait(WAIT_S) == -signal.SIGTERM


@pytest.mark.parametrize("after_s", [0.1, 0.6])
def test_a_parent_that_dies_during_the_import_takes_the_child_along(
    make_child: Callable[..., Child], after_s: float
) -> None:
    child = make_child()
    time.sleep(after_s)
    child.orphan()

    assert child.process.wait(WAIT_S) == 1
    assert child.process.stdout is not None
    assert child.process.stdout.read() == b""  # it had not come as far as `imported`


def ready_child(make_child: Callable[..., Child], checkpoint: Path) -> Child:
    child = make_child()
    child.send(child.spec(checkpoint).to_line())
    while child.next_event().event != "ready":
        pass
    return child


def test_a_parent_that_dies_takes_its_engine_along(make_child: Callable[..., Child], checkpoint: Path) -> None:
    child = ready_child(make_child, checkpoint)
    child.orphan()

    assert child.process.wait(WAIT_S) == 1


def test_sigterm_ends_a_stream_by_name_and_then_the_process(make_child: Callable[..., Child], checkpoint: Path) -> None:
    child = ready_child(make_child, checkpoint)
    body = {"prompt": "hi", "max_tokens": 250, "stream": True, "seed": 1}
    with child.client() as client, client.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        child.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]

    assert last == "data: [DONE]" or "stopped" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert child.process.wait(WAIT_S) == -signal.SIGTERM


def test_a_socket_left_by_an_engine_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    with listen_on_uds(path) as listener:
        assert listener.getsockname() == str(path)

    assert not path.exists()
