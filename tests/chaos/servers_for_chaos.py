"""The programs that chaos needs: registry and store, servers with few descriptors, a balancer; all on free ports."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from many_versions import Mint, mint

from pipeline.demo.world import save_untrained
from pipeline.stack.local import LocalStack, local_stack
from registry_hooks.settings import Settings, StackSettings

NUM_FILES = 1024
WAIT_S = 90.0
BALANCER_CONFIG = Path(__file__).resolve().parents[2] / "configs/haproxy.cfg"


@dataclass(kw_only=True)
class Server:
    """One `relay serve` with at most `NUM_FILES` descriptors."""

    name: str
    port: int
    cache: Path
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the process; it need not be ready."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server"],
                env={**os.environ, **self.env, "RELAY_SERVE__PORT": str(self.port)},
                stdout=subprocess.DEVNULL,
                stderr=out,
                preexec_fn=_few_files,
            )

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def info(self) -> dict[str, Any]:
        with suppress(httpx.HTTPError):
            document: dict[str, Any] = httpx.get(f"{self.url}/models/info", timeout=10).json()
            return document
        return {}

    def is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False

    def engines(self) -> list[psutil.Process]:
        """Its engine children, spares among them."""
        children = psutil.Process(self.pid).children(recursive=True)
        return [child for child in children if "server.engine" in " ".join(child.cmdline())]


@dataclass(kw_only=True)
class World:
    """A registry with two published versions, and a folder for whatever runs on it."""

    stack: LocalStack
    mint: Mint
    root: Path
    servers: list[Server] = field(default_factory=list)

    def server(self, name: str, **environ: str) -> Server:
        """A server that is started by who asked for it, and stopped at the end."""
        cache = self.root / f"cache-{name}"
        env = {
            **self.stack.env,
            "RELAY_REGISTRY__NAME": self.mint.name,
            "RELAY_SERVE__POLL_S": "0.2",
            "RELAY_SERVE__SERVER_NAME": name,
            "RELAY_SERVE__CACHE_DIR": str(cache),
            "RELAY_SERVE__MAX_CACHE_BYTES": "60000000",
            "RELAY_ENGINE__NUM_THREADS": "1",
            "RELAY_ENGINE__DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        server = Server(name=name, port=free_port(), cache=cache, env={**env, **environ}, log=self.root / f"{name}.log")
        self.servers.append(server)
        return server


@contextmanager
def world(root: Path) -> Iterator[World]:
    """MLflow, S3 and a model of two versions, with all servers stopped at the end."""
    settings = Settings(stack=StackSettings(data_dir=root / "mlruns", mlflow_port=0, s3_port=0))
    with local_stack(settings) as stack:
        name = "chaos"
        numbers = tuple(_publish(stack, name, root, seed) for seed in (1, 2))
        made = World(stack=stack, mint=mint(stack, name, published=numbers), root=root)
        try:
            yield made
        finally:
            for server in made.servers:
                if server.process is not None and server.process.poll() is None:
                    server.process.kill()
                    server.process.wait()


@contextmanager
def balancer(servers: list[Server], root: Path, *, retries: bool) -> Iterator[str]:
    """HAProxy in front of two servers, with the configuration that the docs have; its URL.

    Args:
        retries: Whether the balancer sends a request again that no server has begun to answer.
    """
    port = free_port()
    text = BALANCER_CONFIG.read_text(encoding="utf-8")
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}")
    for server, address in zip(servers, ("box-a:8765", "box-b:8765"), strict=True):
        assert address in text
        text = text.replace(address, f"127.0.0.1:{server.port}")
    if not retries:
        dropped = ("retries", "retry-on", "option redispatch")
        text = "".join(line for line in text.splitlines(keepends=True) if not line.strip().startswith(dropped))
        text = text.replace("defaults\n", "defaults\n  retries 0\n")
    config = root / f"haproxy-{port}.cfg"
    config.write_text(text, encoding="utf-8")
    process = subprocess.Popen([haproxy() or "haproxy", "-f", str(config), "-db"], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until("the balancer has a server", lambda: _status(f"{url}/ready") == 200)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def haproxy() -> str | None:
    """The balancer's program, if it is installed (Debian: `apt-get install haproxy`)."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    """Return once `condition` holds.

    Raises:
        TimeoutError: It did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.03)
    raise TimeoutError(f"not within {timeout_s:g} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (NUM_FILES, NUM_FILES))


def _status(url: str) -> int:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).status_code
    return 0


def _publish(stack: LocalStack, name: str, root: Path, seed: int) -> int:
    folder = root / "training" / f"checkpoint-{seed}"
    save_untrained(folder, seed=seed, initializer_range=0.2)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": seed, "log_history": []}))
    command = [str(Path(sys.executable).with_name("relay")), "publish", str(folder), "--name", name]
    env = {**os.environ, **stack.env, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"publishing failed: {done.stdout}{done.stderr}")
    return int(done.stdout.split(f"{name}/")[1].split()[0].rstrip(".,:"))
