"""Generation under load, beside `transformers serve --continuous-batching`: `python benchmarks/serving.py [--quick]`.

Both serve the same 29-million-parameter Qwen3 in float32 on this machine, through HTTP, as streams; ours through the
gateway. The clients run here too and take their share of the cores from both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from support.gateway import Gateway
from support.load import NEW_TOKENS, Seen, load, prompts
from support.report import RESULTS, Report, Row
from support.shapes import Recipe, save_checkpoint
from support.silence import Silence

from pipeline.publishing import PublishOptions, publish
from pipeline.stack.local import local_stack
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import RegistrySettings, Settings, StackSettings

MODEL = "serving"
QWEN3_29M = {
    "vocab_size": 16384,
    "hidden_size": 384,
    "intermediate_size": 1440,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
    "but",
    "at",
    "are",
    "this",
    "have",
    "from",
    "or",
    "had",
    "an",
    "they",
]
RECIPE = Recipe(dtype="float32", spread=0.2, ends=False, tied=False, num_merged=16384)
REQUESTS_PER_CLIENT = {1: 6, 4: 4, 16: 2, 64: 1}
READY_TIMEOUT_S = 180.0
# The gateway imports torch in a spare process in its idle time; this is that time.
SETTLE_S = 15.0

Samples = dict[str, list[float]]


@contextmanager
def peer(folder: Path, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`transformers serve` with continuous batching and otherwise its own defaults, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    options = ["--continuous-batching", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, "serve", str(folder), *options, "--port", str(port)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=out,
            stderr=out,
        )
    try:
        _await_health(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError("transformers serve did not become ready; its log says why")


@contextmanager
def ours(folder: Path, room: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A gateway with an engine of the published folder, ready."""
    settings = Settings(registry=RegistrySettings(name=MODEL))
    with local_stack(Settings(stack=StackSettings(data_dir=room / "stack", mlflow_port=0, s3_port=0))) as stack:
        os.environ.update(stack.env)
        registry = MlflowRegistry(stack.tracking_uri, timeout_s=30, write_timeout_s=60)
        publish(
            folder,
            catalog=MlflowCatalog(registry),
            writer=S3Store(settings.store, stack.s3_endpoint_url),
            settings=settings,
            options=PublishOptions(),
            progress=Silence(),
        )
        registry.rest.post("/registered-models/alias", name=MODEL, alias="Production", version="1")
        registry.close()
        env = {"RELAY_REGISTRY__NAME": MODEL, "RELAY_SERVE__PORT": "0", "RELAY_SERVE__CACHE_DIR": str(room / "cache")}
        with Gateway(env, room / "gateway.log") as gateway:
            gateway.serving(1)
            yield gateway.url, psutil.Process(gateway.pid)


def measure(room: Path, rounds: int, levels: tuple[int, ...]) -> Report:
    """Both servers side by side, asked in turn."""
    save_checkpoint(room / "checkpoint-1", QWEN3_29M, step=1, recipe=RECIPE)
    loads: list[str] = []
    mine: Samples = defaultdict(list)
    theirs: Samples = defaultdict(list)
    with (
        ours(room / "checkpoint-1", room) as (our_url, our_process),
        peer(room / "checkpoint-1", room / "peer.log") as (peer_url, peer_process),
    ):
        sides = [(our_url, MODEL, mine, our_process), (peer_url, str(room / "checkpoint-1"), theirs, peer_process)]
        for url, model, _, _ in sides:
            asyncio.run(load(url, model, prompts(4, seed=99), num_clients=2))
        time.sleep(SETTLE_S)
        for number in range(rounds):
            for clients in levels:
                texts = prompts(clients * REQUESTS_PER_CLIENT[clients], seed=number)
                for url, model, samples, process in sides if number % 2 == 0 else reversed(sides):
                    loads.append(f"{os.getloadavg()[0]:.1f}")
                    print(f"round {number + 1}, {clients} clients, {url}, load average {loads[-1]}", flush=True)
                    seen = asyncio.run(load(url, model, texts, num_clients=clients))
                    _note(samples, clients, seen, process)
    return Report(
        name="serving",
        title="Generation under load, beside transformers serve",
        lines=_story(rounds, loads),
        rows=_rows(mine, theirs, levels),
    )


def _note(samples: Samples, clients: int, seen: Seen, process: psutil.Process) -> None:
    samples[f"throughput_{clients}"].append(seen.tokens_per_s)
    samples[f"first_{clients}"].append(seen.median_first_s)
    samples[f"itl_p50_{clients}"].append(seen.gap_quantile_ms(0.5))
    samples[f"itl_p99_{clients}"].append(seen.gap_quantile_ms(0.99))
    family = [process, *process.children(recursive=True)]
    samples[f"rss_{clients}"].append(sum(one.memory_info().rss for one in family) / 1e6)


def _rows(mine: Samples, theirs: Samples, levels: tuple[int, ...]) -> list[Row]:
    units = {"throughput": "tokens/s", "first": "s", "itl_p50": "ms", "itl_p99": "ms", "rss": "MB"}
    return [
        Row(what=f"{kind}_{clients}", ours=mine[f"{kind}_{clients}"], peer=theirs[f"{kind}_{clients}"], unit=unit)
        for kind, unit in units.items()
        for clients in levels
    ]


def _story(rounds: int, loads: list[str]) -> list[str]:
    return [
        f"A Qwen3 of 29 M parameters, float32, random weights; prompts of 8 to 200 words, {NEW_TOKENS} new tokens, "
        f"greedy, streamed; {rounds} rounds, interleaved; medians, lowest and highest in brackets. Closed-loop clients "
        "on the same machine.",
        "ours: through the gateway. plain: `transformers serve --continuous-batching`, its own defaults.",
        "`first`: median seconds to the first text. `itl`: milliseconds between two pieces of text. `rss`: resident "
        "memory of the server and all its children after that level, ours with the gateway and its spare engine.",
        f"Load average before each measurement: {', '.join(loads)}.",
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of few clients, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-serving-") as room:
        levels = (1, 4) if arguments.quick else (1, 4, 16, 64)
        report = measure(Path(room), 1 if arguments.quick else arguments.rounds, levels)
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
