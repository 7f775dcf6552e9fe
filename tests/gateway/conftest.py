"""A real gateway process, and versions for it to serve."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

WAIT_S = 60.0


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """The first true value of `condition`; fails the test when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if value := condition():
                return value
        time.sleep(0.05)
    return pytest.fail(f"not within {timeout_s:g} s: {what}")


@dataclass
class RunningGateway:
    """`python -m server` as a child, and a client for it."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def info(self) -> dict[str, Any]:
        document: dict[str, Any] = self.client.get(f"{self.url}/models/info").json()
        return document

    def wait_for_version(
        self, version: int, timeout_s: float = WAIT_S, *, other_than_pid: int | None = None
    ) -> dict[str, Any]:
        def served() -> dict[str, Any] | None:
            info = self.info()
            is_served = info["loaded"] and info["version"] == version and info["engine_pid"] != other_than_pid
            return info if is_served else None

        result: dict[str, Any] = wait_until(f"version {version} is served", served, timeout_s)
        return result

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "copy abc"}], "max_tokens": 8, "temperature": 0} | fields
        return self.client.post(f"{self.url}/v1/chat/completions", json=body)

    def engines(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "server.engine" in " ".join(child.cmdline())]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def gateways(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningGateway]]:
    """Starts gateways on free ports; stops those that still run at the end."""
    running: list[RunningGateway] = []
    logs = tmp_path_factory.mktemp("gateways")

    def start(model: str, *, cache: Path, wait: bool = True, **environ: str) -> RunningGateway:
        log = logs / f"gateway-{len(running)}.log"
        settings = {
            "RELAY_REGISTRY__NAME": model,
            "RELAY_SERVE__PORT": "0",
            "RELAY_SERVE__POLL_S": "0.2",
            "RELAY_SERVE__SERVER_NAME": "test",
            "RELAY_SERVE__CACHE_DIR": str(cache),
            "RELAY_SERVE__SHUTDOWN_GRACE_S": "3",
            "RELAY_ENGINE__NUM_THREADS": "1",
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server"],
                env={**os.environ, **stack.env, **settings, **environ},
                stderr=out,
                stdout=subprocess.DEVNULL,
            )
        gateway = RunningGateway(process=process, log=log)
        running.append(gateway)
        if wait:
            gateway.url = wait_until("the gateway listens", lambda: _url(log))
        return gateway

    yield start
    for gateway in running:
        gateway.client.close()
        if gateway.process.poll() is None:
            gateway.stop()


@pytest.fixture
def start_gateway(gateways: Callable[..., RunningGateway], tmp_path: Path) -> Iterator[Callable[..., RunningGateway]]:
    """Starts gateways for one test, with a cache of their own."""
    started: list[RunningGateway] = []

    def start(model: str, *, cache: Path | None = None, **options: Any) -> RunningGateway:
        started.append(gateways(model, cache=cache or tmp_path / "cache", **options))
        return started[-1]

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.stop()


@pytest.fixture(scope="session")
def _shared(
    gateways: Callable[..., RunningGateway], served_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    return gateways(served_model, cache=tmp_path_factory.mktemp("shared-cache"))


@pytest.fixture
def gateway(_shared: RunningGateway, served_model: str, person: Any) -> RunningGateway:
    """A gateway that several tests share; it serves version 1 when a test begins."""
    person.set_registered_model_alias(served_model, "Production", 1)
    _shared.wait_for_version(1)
    return _shared


def _url(log: Path) -> str | None:
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("event") == "gateway.listening":
                return str(event["url"])
    return None


@pytest.fixture(scope="session")
def publish_cli(stack: Any) -> Callable[[str, Path], int]:
    """Publishes a folder by `relay publish`; its version."""

    def publish(model: str, folder: Path) -> int:
        command = [str(Path(sys.executable).with_name("relay")), "publish", str(folder), "--name", model]
        done = subprocess.run(
            command, env={**os.environ, **stack.env}, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return int(done.stdout.split(f"{model}/")[1].split()[0].rstrip(".,:"))

    return publish


@pytest.fixture(scope="session")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two small checkpoints with different weights, saved at steps 10 and 20."""
    from pipeline.demo.world import save_untrained

    root = tmp_path_factory.mktemp("training")
    for seed, step in ((1, 10), (2, 20)):
        folder = root / f"checkpoint-{step}"
        save_untrained(folder, seed=seed, initializer_range=0.2)
        history = [{"eval_loss": 3.0 - step / 10, "step": step}]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    return root / "checkpoint-10", root / "checkpoint-20"


@pytest.fixture(scope="session")
def served_model(publish_cli: Callable[[str, Path], int], two_checkpoints: tuple[Path, Path]) -> str:
    """A registered model with versions 1 and 2 (steps 10 and 20)."""
    model = f"served-{uuid.uuid4().hex[:8]}"
    assert [publish_cli(model, folder) for folder in two_checkpoints] == [1, 2]
    return model


@pytest.fixture
def person(stack: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A person's `MlflowClient`."""
    import mlflow

    for key, value in stack.env.items():
        monkeypatch.setenv(key, value)
    return mlflow.MlflowClient(tracking_uri=stack.tracking_uri, registry_uri=stack.tracking_uri)


class Link:
    """A TCP link that can be cut and healed: what a pulled cable looks like to the gateway."""

    def __init__(self, target_url: str) -> None:
        host, _, port = target_url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and reset those that are open."""
        self._is_cut = True
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._target, timeout=5)
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            self._open.discard(end)
            end.close()


@pytest.fixture
def links(stack: Any) -> Iterator[tuple[Link, Link]]:
    """The ways to the registry and to the store, that can be cut."""
    registry, store = Link(stack.tracking_uri), Link(stack.s3_endpoint_url)
    yield registry, store
    registry.close()
    store.close()
