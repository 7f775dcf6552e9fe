"""Many clients on one small model, beside `transformers serve`: `python benchmarks/serving.py [--quick]`.

Three servers of the same folder are up at once and are asked in turn, level by level: ours through the gateway, ours
without packed linear layers, and the peer. `generate` on one static batch, in a process of its own, is the ceiling.

`--before CHECKOUT` compares with another checkout of Relay, with a `.venv` of its own, whose version both serve.
"""

from __future__ import annotations

import argparse
import os
import signal
import string
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
import uvloop
from support.letters_and_words import save_29m
from support.report import RESULTS, Report, Row, commit
from support.servers import Memory, Relay, TransformersServe
from support.silence import Silence
from support.static_batch import tokens_per_s
from support.streaming_clients import Load, prompts, run_load

from pipeline.demo.world import build_model, build_tokenizer
from pipeline.publishing import PublishOptions, publish
from pipeline.stack.local import LocalStack, local_stack
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import RegistrySettings, Settings, StackSettings

CLIENTS = (1, 4, 16, 64)
REQUESTS = {1: 6, 4: 16, 16: 48, 64: 192}
QUICK_REQUESTS = {1: 1, 4: 4, 16: 16, 64: 64}
# A gateway's spare process imports torch when the gateway has been idle; that ends before anything is measured.
SETTLE_S = 20.0
IDLE_S = 3.0
STOCK = {"RELAY_ENGINE__PACKED_LINEARS": "false"}
STOCK_ROW = "/stock_linears"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model to serve; `longest` tokens has its longest prompt, and `prefix` stands before its rows."""

    name: str
    folder: Path
    longest: int
    prefix: str


@dataclass(slots=True, kw_only=True)
class Side:
    """A server, and what was measured of it by row."""

    server: Relay | TransformersServe
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    idle_share: float = 0.0


def measure(rounds: int, *, quick: bool) -> Report:
    """Every subject on every server."""
    began_at_load = os.getloadavg()[0]
    requests = QUICK_REQUESTS if quick else REQUESTS
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="relay-serving-") as folder:
        room = Path(folder)
        with local_stack(Settings(stack=StackSettings(data_dir=room / "stack", mlflow_port=0, s3_port=0))) as stack:
            os.environ.update(stack.env)
            for subject in _subjects(room):
                _publish(subject, stack)
                rows.extend(_measure_subject(subject, room, rounds, requests))
    return Report(
        name="serving-quick" if quick else "serving",
        title="Many clients on one small model, beside `transformers serve --continuous-batching`",
        lines=_story(rounds, requests, began_at_load),
        rows=rows,
    )


def measure_before(checkout: Path, rounds: int, *, quick: bool) -> Report:
    """Every subject on this Relay and on the one in `checkout`."""
    began_at_load = os.getloadavg()[0]
    requests = QUICK_REQUESTS if quick else REQUESTS
    python = str(checkout.resolve() / ".venv/bin/python")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="relay-serving-") as folder:
        room = Path(folder)
        with local_stack(Settings(stack=StackSettings(data_dir=room / "stack", mlflow_port=0, s3_port=0))) as stack:
            os.environ.update(stack.env)
            for subject in _subjects(room):
                _publish_by(python, subject, stack)
                with ExitStack() as running:
                    ours = Side(server=running.enter_context(Relay(subject.name, room / "ours", settings={})))
                    other = Relay(subject.name, room / "before", settings={}, python=python)
                    before = Side(server=running.enter_context(other))
                    _ask_in_turn(subject, {"ours": ours, "before": before}, rounds, requests)
                measured = [what for what in ours.samples if what in before.samples]
                rows += [
                    Row(what=subject.prefix + w, ours=ours.samples[w], peer=before.samples[w], unit=_unit(w))
                    for w in measured
                ]
    return Report(
        name="serving-before",
        title=f"Many clients on one small model, beside Relay of commit {commit(checkout)[:12]}",
        lines=[
            f"plain: Relay of commit {commit(checkout)[:12]}, in the same run, asked in turn; models, loads and rows "
            f"are those of serving.md; {rounds} rounds; medians, lowest and highest in brackets. Load average when it "
            f"began: {began_at_load:.2f}."
        ],
        rows=rows,
    )


def _measure_subject(subject: Subject, room: Path, rounds: int, requests: dict[int, int]) -> list[Row]:
    with ExitStack() as running:
        ours = Side(server=running.enter_context(Relay(subject.name, room / "packed", settings={})))
        stock = Side(server=running.enter_context(Relay(subject.name, room / "stock", settings=STOCK)))
        peer = Side(server=running.enter_context(TransformersServe(subject.folder, room / "transformers-serve.log")))
        sides = {"ours": ours, "ours, stock linears": stock, "transformers serve": peer}

        def one_static_batch() -> None:
            for side, packed in ((ours, True), (stock, False)):
                rate = tokens_per_s(subject.folder, longest=subject.longest, packed=packed)
                side.samples["static_16"].append(rate)
                print(f"    static batch of 16, packed={packed}: {rate:.1f} tokens/s", flush=True)

        _ask_in_turn(subject, sides, rounds, requests, after_each=one_static_batch)
    return _rows(subject.prefix, ours, stock, peer)


def _ask_in_turn(
    subject: Subject,
    sides: dict[str, Side],
    rounds: int,
    requests: dict[int, int],
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Load each side at each level, in every round; who is first alternates. `after_each` is called after a round."""
    for side in sides.values():
        with side.server.awake():
            uvloop.run(run_load(side.server.target, prompts(4, longest=subject.longest, seed=99), num_clients=4))
    time.sleep(SETTLE_S)
    for side in sides.values():
        if isinstance(side.server, Relay):
            side.idle_share = _cpu_share(side)
    for number in range(rounds):
        for num_clients in CLIENTS:
            texts = prompts(requests[num_clients], longest=subject.longest, seed=10 * number + num_clients)
            for name in sides if number % 2 == 0 else reversed(sides):
                print(f"{subject.name}, round {number + 1} of {rounds}, {num_clients} clients, {name}:", flush=True)
                _load(sides[name], texts, num_clients)
        after_each()


def _load(side: Side, texts: list[str], num_clients: int) -> None:
    before = os.getloadavg()[0]
    with side.server.awake(), Memory(side.server.pid) as memory:
        cpu_s, since = side.server.own_cpu_s(), time.perf_counter()
        load = uvloop.run(run_load(side.server.target, texts, num_clients=num_clients))
        busy_s = side.server.own_cpu_s() - cpu_s - side.idle_share * (time.perf_counter() - since)
    _note(side.samples, num_clients, load, memory.peak_bytes)
    if num_clients == 16:
        side.samples["gateway_us_per_token"].append(1e6 * busy_s / load.num_tokens)
    print(
        f"    {load.tokens_per_s:7.1f} tokens/s, first {load.first_token_ms():6.0f} ms, between p50 "
        f"{load.gap_ms(50):6.1f} p99 {load.gap_ms(99):7.1f} ms, {load.num_errors} failed (load before: {before:.2f})",
        flush=True,
    )


def _note(samples: dict[str, list[float]], num_clients: int, load: Load, peak_bytes: int) -> None:
    samples[f"throughput_{num_clients}"].append(load.tokens_per_s)
    samples[f"ttft_p50_{num_clients}"].append(load.first_token_ms())
    samples[f"itl_p50_{num_clients}"].append(load.gap_ms(50))
    samples[f"itl_p99_{num_clients}"].append(load.gap_ms(99))
    samples[f"rss_{num_clients}"].append(peak_bytes / 1e6)
    samples[f"failed_{num_clients}"].append(load.num_errors)


def _cpu_share(side: Side) -> float:
    """CPU seconds a second that the gateway's own process takes when nobody asks."""
    cpu_s = side.server.own_cpu_s()
    time.sleep(IDLE_S)
    return (side.server.own_cpu_s() - cpu_s) / IDLE_S


def _rows(prefix: str, ours: Side, stock: Side, peer: Side) -> list[Row]:
    """The rows that the aims are about first."""
    first = [*(f"throughput_{n}" for n in CLIENTS), "itl_p99_16", "rss_16"]
    rest = [f"{kind}_{n}" for kind in ("ttft_p50", "itl_p50", "itl_p99", "rss", "failed") for n in CLIENTS]
    rows = []
    for side, suffix in ((ours, ""), (stock, STOCK_ROW)):
        compared = first if side is stock else [*first, *(what for what in rest if what not in first)]
        rows += [(what + suffix, side.samples[what], peer.samples[what]) for what in compared]
        rows.append((f"ceiling_16{suffix}", side.samples["throughput_16"], side.samples["static_16"]))
        rows.append((f"gateway_us_per_token{suffix}", side.samples["gateway_us_per_token"], []))
    return [Row(what=prefix + what, ours=mine, peer=theirs, unit=_unit(what)) for what, mine, theirs in rows]


def _unit(what: str) -> str:
    kinds = {"throughput": "tokens/s", "ceiling": "tokens/s", "ttft": "ms", "itl": "ms", "rss": "MB", "gateway": "us"}
    return kinds.get(what.partition("_")[0], "requests")


def _publish(subject: Subject, stack: LocalStack) -> None:
    settings = Settings(registry=RegistrySettings(name=subject.name))
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=30, write_timeout_s=120)
    publish(
        subject.folder,
        catalog=MlflowCatalog(registry),
        writer=S3Store(settings.store, stack.s3_endpoint_url),
        settings=settings,
        options=PublishOptions(),
        progress=Silence(),
    )
    registry.rest.post("/registered-models/alias", name=subject.name, alias="Production", version="1")
    registry.close()


def _publish_by(python: str, subject: Subject, stack: LocalStack) -> None:
    """Publish by another Relay, whose versions this one serves as well; the first version needs no promoter."""
    relay = Path(python).with_name("relay")
    subprocess.run([str(relay), "publish", str(subject.folder), "--name", subject.name], check=True, timeout=300)
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=30, write_timeout_s=120)
    registry.rest.post("/registered-models/alias", name=subject.name, alias="Production", version="1")
    registry.close()


def _subjects(room: Path) -> list[Subject]:
    model, demo = room / "checkpoint-100", room / "demo"
    save_29m(model)
    _save_letter_writer(demo)
    (demo / "trainer_state.json").write_text('{"global_step": 1, "log_history": [{"step": 1, "eval_loss": 5.7}]}')
    return [
        Subject(name="qwen3-29m", folder=model, longest=256, prefix=""),
        Subject(name="demo", folder=demo, longest=160, prefix="demo/"),
    ]


def _save_letter_writer(folder: Path) -> None:
    """The demo's model, which never ends and writes ASCII letters: half a UTF-8 character would wait for its rest."""
    model, tokenizer = build_model(seed=0), build_tokenizer()
    model.config.tie_word_embeddings = False
    letters = tokenizer.convert_tokens_to_ids(list(string.ascii_letters))
    head = torch.zeros_like(model.get_input_embeddings().weight)
    head[letters] = model.get_input_embeddings().weight[letters].detach()
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _story(rounds: int, requests: dict[int, int], began_at_load: float) -> list[str]:
    asked = ", ".join(f"{number} from {num_clients}" for num_clients, number in requests.items())
    return [
        "A Qwen3 of 29 M parameters (hidden 384, 8 layers, vocabulary 16384, random weights, float32); rows `demo/` "
        f"are the demo's 0.8 M one with random weights that write letters only. {rounds} rounds; all servers up at "
        "once and asked in turn, the peer stopped (SIGSTOP) when it is not its turn; medians, lowest and highest in "
        f"brackets. Load average when it began: {began_at_load:.2f}.",
        "Closed-loop clients stream chats over HTTP, started 20 ms apart: prompts of 8 to 256 tokens (160 for the "
        f"demo), 64 new tokens, greedy, tokens counted by `usage`; requests: {asked} clients. plain: "
        "`transformers serve FOLDER --continuous-batching`, its defaults.",
        f"ours: through the gateway of `relay serve`, on a version published to a local stack. `{STOCK_ROW}`: ours "
        "without packed linear layers. `ceiling_16`: ours over HTTP with 16 clients; plain one left-padded batch of 16 "
        "in `generate`, in process, with the same linear layers, prefill included.",
        "`ttft`: request to first text. `itl`: between two texts of one stream. `rss`: highest resident memory of the "
        "server's process tree (ours: gateway, engine and the spare process that waits for the next version; shared "
        "pages count twice). `gateway_us_per_token`: CPU time of the gateway process with 16 streams, less what it "
        "uses idle. `failed`: requests without a counted answer.",
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few requests, one round, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, default=None, help="another checkout of Relay to compare with")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it takes its servers down with it
    rounds = 1 if arguments.quick else arguments.rounds
    if arguments.before is not None:
        report = measure_before(arguments.before, rounds, quick=arguments.quick)
    else:
        report = measure(rounds, quick=arguments.quick)
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
