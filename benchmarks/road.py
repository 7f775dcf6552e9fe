"""The road of a checkpoint, from folder to first token, beside the plain recipe: `python benchmarks/road.py [--quick]`.

Plain recipe: `log_artifacts`, a version, the alias; then `download_artifacts` and `from_pretrained` in a process that
has imported everything before. It verifies nothing, records nothing, and serves nobody meanwhile.
Ours: `relay publish`'s own workflow; then a real `relay serve` that serves another version meanwhile. Both compute in
bfloat16, as saved; on a CPU Relay's own default would be float32.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Final

from support.gateway import Gateway
from support.plain_recipe import PROMPT, PlainRecipe
from support.report import RESULTS, Report, Row
from support.shapes import QWEN3_0_6B, SMALL, save_checkpoint
from support.silence import Silence

from pipeline.publishing import Published, PublishOptions, publish
from pipeline.stack.local import LocalStack, local_stack
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import EngineSettings, RegistrySettings, Settings, StackSettings

ALIAS = "Production"
DTYPE: Final = "bfloat16"
# Of the reload that a server reports, in this order.
SERVER_STAGES = ("fetch", "verify", "start", "golden", "warm", "flip")
# A server imports torch in a spare process in its idle time; this is that time.
SETTLE_S = 10.0

Samples = dict[str, list[float]]


class Bench:
    """Both roads on one stack."""

    def __init__(self, stack: LocalStack, room: Path, big: Path, small: Path) -> None:
        self.stack, self.room, self.big, self.small = stack, room, big, small
        self.registry = MlflowRegistry(stack.tracking_uri, timeout_s=30, write_timeout_s=120)
        self.settings = Settings(engine=EngineSettings(dtype=DTYPE))
        self.store = S3Store(self.settings.store, stack.s3_endpoint_url)
        self.ours: Samples = defaultdict(list)
        self.peer: Samples = defaultdict(list)

    def round_of_ours(self, name: str) -> None:
        """Publish and serve with Relay, with an empty cache."""
        self._publish(name, self.small)
        self._move_alias(name, 1)
        cache = self.room / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        self._measure_publish(name)
        env = {
            "RELAY_REGISTRY__NAME": name,
            "RELAY_SERVE__PORT": "0",
            "RELAY_SERVE__CACHE_DIR": str(cache),
            "RELAY_ENGINE__DTYPE": DTYPE,
        }
        with Gateway(env, self.room / "gateway.log") as gateway:
            gateway.serving(1)
            time.sleep(SETTLE_S)
            moved_at = self._move_alias(name, 2)
            info = gateway.serving(2)
            first_token_at = gateway.first_token_at(PROMPT)
        reload = info["last_reload"]
        seconds = reload["seconds"]
        noticed_s = datetime.fromisoformat(reload["started_at"]).timestamp() - moved_at
        self.ours["load/noticed"].append(noticed_s)
        for stage in SERVER_STAGES:
            self.ours[f"load/{stage}"].append(seconds.get(stage, 0.0))
        self.ours["weights_ready"].append(noticed_s + sum(seconds[stage] for stage in ("fetch", "verify", "start")))
        self.ours["first_token"].append(first_token_at - moved_at)
        self.ours["load/bytes"].append(reload["downloaded_bytes"])

    def round_of_peer(self, name: str) -> None:
        """The same by the plain recipe, into a new folder."""
        folder = self.room / "download"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with PlainRecipe(dict(os.environ)) as plain:
            sent = plain.order(do="publish", folder=str(self.big), name=name)
            moved_at = self._move_alias(name, 1)
            got = plain.order(do="load", name=name, folder=str(folder))
        self.peer["publish"].append(sent["upload"] + sent["register"])
        self.peer["publish/upload"].append(sent["upload"])
        self.peer["publish/register"].append(sent["register"])
        self.peer["publish/bytes"].append(self._stored_bytes(sent["uri"]))
        self.peer["load/fetch"].append(got["downloaded_at"] - moved_at)
        self.peer["load/start"].append(got["loaded_at"] - got["downloaded_at"])
        self.peer["weights_ready"].append(got["loaded_at"] - moved_at)
        self.peer["first_token"].append(got["first_token_at"] - moved_at)
        self.peer["load/bytes"].append(got["bytes"])
        shutil.rmtree(folder)

    def rows(self) -> list[Row]:
        """The three that matter first, then bytes and stages in the order of the road."""
        first = ["publish", "weights_ready", "first_token", "publish/bytes", "load/bytes"]
        rest = sorted({*self.ours, *self.peer} - set(first), key=_place)
        units = {"publish/bytes": "bytes", "load/bytes": "bytes"}
        return [
            Row(what=what, ours=self.ours[what], peer=self.peer[what], unit=units.get(what, "s"))
            for what in (*first, *rest)
        ]

    def _measure_publish(self, name: str) -> None:
        published = self._publish(name, self.big)
        self.ours["publish"].append(published.total_s)
        for stage, seconds in published.seconds.items():
            self.ours[f"publish/{stage}"].append(seconds)
        self.ours["publish/bytes"].append(self._stored_bytes(published.version.artifact_uri))

    def _publish(self, name: str, folder: Path) -> Published:
        settings = self.settings.model_copy(update={"registry": RegistrySettings(name=name)})
        return publish(
            folder,
            catalog=MlflowCatalog(self.registry),
            writer=self.store,
            settings=settings,
            options=PublishOptions(),
            progress=Silence(),
        )

    def _move_alias(self, name: str, version: int) -> float:
        """Unix time in seconds at which the alias had been moved."""
        self.registry.rest.post("/registered-models/alias", name=name, alias=ALIAS, version=str(version))
        return time.time()

    def _stored_bytes(self, uri: str) -> float:
        return float(sum(item.size_bytes for item in self.store.list_objects(uri)))


def _place(what: str) -> tuple[bool, int]:
    stages = ("validate", "convert", "hash", "upload", "golden", "register", "noticed", *SERVER_STAGES)
    part, _, stage = what.partition("/")
    order = SERVER_STAGES if part == "load" else stages
    return part == "load", order.index(stage) if stage in order else -1


def measure(rounds: int, *, quick: bool) -> Report:
    """Run both roads in turn, the first of each pair alternating."""
    with tempfile.TemporaryDirectory(prefix="relay-road-") as folder:
        room = Path(folder)
        size = save_checkpoint(room / "big" / "checkpoint-200", SMALL if quick else QWEN3_0_6B, step=200)
        save_checkpoint(room / "small" / "checkpoint-100", SMALL, step=100, seed=1)
        stack_settings = StackSettings(data_dir=room / "stack", mlflow_port=0, s3_port=0)
        with local_stack(Settings(stack=stack_settings)) as stack:
            os.environ.update(stack.env)
            bench = Bench(stack, room, room / "big" / "checkpoint-200", room / "small" / "checkpoint-100")
            for number in range(rounds):
                turns = [bench.round_of_ours, bench.round_of_peer]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    print(f"round {number + 1} of {rounds}: {turn.__name__}", flush=True)
                    turn(f"{turn.__name__}-{number}")
            bench.registry.close()
            return Report(
                name="road-quick" if quick else "road",
                title="The road of a checkpoint, beside the plain recipe",
                lines=_story(size, rounds, stack.s3_kind),
                rows=bench.rows(),
            )


def _story(size_bytes: int, rounds: int, s3_kind: str) -> list[str]:
    return [
        f"A bfloat16 Qwen3 of {size_bytes / 1e6:.0f} MB with random weights; {rounds} rounds, interleaved; medians, "
        f"lowest and highest in brackets. MLflow and S3 ({s3_kind}) on the same machine, loopback, nothing cached; "
        "both sides compute in bfloat16.",
        "plain: `log_artifacts` and a version; then, told at once that the alias was moved, `download_artifacts` and "
        "`from_pretrained` in a process with everything imported. Nothing is hashed, verified or compared.",
        "ours: the workflow of `relay publish`, with hashes and golden answers recorded by an engine that starts cold; "
        "then `relay serve`, which serves another version meanwhile and notices the alias by its 1 s poll "
        "(`load/noticed`).",
        "`publish`: from the folder to the version. `weights_ready`: from the moved alias to weights in memory, ours "
        "verified chunk by chunk and listening. `first_token`: from the moved alias to the first token of a chat, ours "
        "through the gateway after the golden check. `publish/golden` runs while `publish/upload` does.",
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few megabytes, one round, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it takes its servers down with it
    report = measure(1 if arguments.quick else arguments.rounds, quick=arguments.quick)
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
