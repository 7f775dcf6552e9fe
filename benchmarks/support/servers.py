"""The servers that the serving benchmark loads, as processes: `relay serve`, and `transformers serve`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import httpx
import psutil

from support.gateway import Gateway
from support.streaming_clients import Target

_DEADLINE_S = 300.0
_SAMPLE_S = 0.5  # a look at the process tree takes 2 ms of the clients' core


class Memory:
    """Samples the resident memory of a process and all below it, summed; a context manager."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._process))

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of the tree; a page that two processes share counts twice."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def _own_cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Relay:
    """A gateway that serves version 1 of a registered model. Its tree: the gateway, the engine, the spare process."""

    def __init__(self, name: str, room: Path, *, settings: dict[str, str], python: str = sys.executable) -> None:
        env = {
            "RELAY_REGISTRY__NAME": name,
            "RELAY_SERVE__PORT": "0",
            "RELAY_SERVE__CACHE_DIR": str(room / "cache"),
            **settings,
        }
        room.mkdir(parents=True, exist_ok=True)
        self._gateway = Gateway(env, room / "gateway.log", python=python)
        self.pid = self._gateway.pid
        # Greedy has to be asked for, and so has the count of tokens that the peer sends unasked.
        asked = {"temperature": 0, "stream_options": {"include_usage": True}}
        self.target = Target(url=self._gateway.url, model=name, extra=asked)

    def __enter__(self) -> Relay:
        self._gateway.serving(1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._gateway.__exit__()

    def own_cpu_s(self) -> float:
        """CPU time of the gateway process alone, since its start."""
        return _own_cpu_s(self.pid)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """It is: idle, it takes a hundredth of a core."""
        yield


class TransformersServe:
    """`transformers serve FOLDER --continuous-batching`, with everything else as it is by default."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        code = "from transformers.cli.transformers import main; main()"
        command = [sys.executable, "-c", code, "serve", str(folder), "--continuous-batching"]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._log = log
        self.pid = self._process.pid
        # Greedy is its default for a model without a generation config. Its streams begin with the prompt.
        self.target = Target(url=f"http://127.0.0.1:{port}", model=str(folder), extra={}, num_leading=1)

    def own_cpu_s(self) -> float:
        """CPU time of its one process, since its start."""
        return _own_cpu_s(self.pid)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run: its loop turns without a pause when nobody asks, and would take a core from the others."""
        psutil.Process(self.pid).resume()
        try:
            yield
        finally:
            psutil.Process(self.pid).suspend()

    def __enter__(self) -> TransformersServe:
        deadline = time.monotonic() + _DEADLINE_S
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.target.url}/health", trust_env=False).status_code == 200:
                    return self
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        self.__exit__(None, None, None)
        raise RuntimeError(f"transformers serve did not become ready: {self._log.read_text()[-2000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
