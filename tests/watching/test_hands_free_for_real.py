"""Real trainings and a real `relay watch` against real MLflow and S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.stack.local import LocalStack
from pipeline.watching.pending import PendingQueue
from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import ModelVersion
from tests.watching.memory_world import wait_until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0
TRAIN = [sys.executable, str(Path(__file__).with_name("programs") / "tiny_training.py")]
WATCH = """
import sys
from pathlib import Path
from pipeline.watching import watch
from registry_hooks import events, settings
events.configure()
sys.exit(watch.run(Path(sys.argv[1]), settings=settings.load(), options=watch.WatchOptions(poll_s=0.1, settle_s=0.3)))
"""


@pytest.fixture(scope="module")
def registry(stack: LocalStack) -> Iterator[MlflowRegistry]:
    client = MlflowRegistry(stack.tracking_uri, timeout_s=20)
    yield client
    client.close()


def environ(stack: LocalStack, name: str, **changes: str) -> dict[str, str]:
    ours = {"PYTHONPATH": str(ROOT), "RELAY_REGISTRY__NAME": name, "RELAY_ENGINE__NUM_THREADS": "1"}
    return {**os.environ, **stack.env, **ours, **changes}


def train(folder: Path, num_steps: int, env: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
    done = subprocess.run(
        [*TRAIN, str(folder), str(num_steps)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def versions(registry: MlflowRegistry, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    while True:
        try:
            found.append(registry.get_version(name, len(found) + 1))
        except UnknownModelError:
            return found


def parent_of(registry: MlflowRegistry, made: list[ModelVersion]) -> Any:
    """The one training run that all these versions share."""
    runs = [registry.rest.get("/runs/get", run_id=version.run_id)["run"] for version in made]
    [parent] = {tag["value"] for run in runs for tag in run["data"]["tags"] if tag["key"] == "mlflow.parentRunId"}
    return registry.rest.get("/runs/get", run_id=parent)["run"]


def test_a_training_publishes_every_save_under_its_own_run(
    stack: LocalStack, registry: MlflowRegistry, tmp_path: Path
) -> None:
    env = environ(stack, "trained", MLFLOW_EXPERIMENT_NAME="tiny", DISABLE_MLFLOW_INTEGRATION="FALSE")
    train(tmp_path / "out", 2, env)
    made = versions(registry, "trained")
    parent = parent_of(registry, made)

    child = registry.rest.get("/runs/get", run_id=made[0].run_id or "")["run"]
    params = {param["key"]: param["value"] for param in child["data"]["params"]}

    assert [version.step for version in made] == [1, 2]
    assert (params["learning_rate"], params["per_device_train_batch_size"], params["seed"]) == ("5e-05", "2", "42")
    assert len({version.tags[contract.TAG_CONFIG_HASH] for version in made}) == 1
    assert all("eval_loss" in registry.run_metrics(version.run_id or "") for version in made)
    assert "loss" in {metric["key"] for metric in parent["data"]["metrics"]}
    # The Trainer's save_total_limit removed the first while it waited.
    assert [path.name for path in sorted((tmp_path / "out").glob("checkpoint-*"))] == ["checkpoint-2"]
    assert PendingQueue(tmp_path / "out" / ".relay-pending").entries() == []


@contextmanager
def watching(folder: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`relay watch` on `folder`; gone at the end, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(folder)], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def somebody_publishes(queue: PendingQueue) -> bool:
    lead = queue.try_lead()
    if lead is not None:
        os.close(lead)
    return lead is None


def test_a_training_without_mlflow_ends_as_usual_and_a_watch_publishes_later_what_it_left(
    stack: LocalStack, registry: MlflowRegistry, tmp_path: Path
) -> None:
    # An address that is reserved for examples: nothing ever answers there.
    away = environ(stack, "late", MLFLOW_TRACKING_URI="http://192.0.2.1:9", TINY_WAIT_S="0")
    told, output = train(tmp_path, 2, away)
    queue = PendingQueue(tmp_path / ".relay-pending")
    waiting = [entry.paper.step for entry in queue.entries()]
    with watching(tmp_path, environ(stack, "late")) as first:
        wait_until("the watch publishes", lambda: somebody_publishes(queue), DEADLINE_S)
        first.kill()
    left = [entry.paper.step for entry in queue.entries()]
    with watching(tmp_path, environ(stack, "late")) as second:
        wait_until("nothing waits", lambda: not queue.entries(), DEADLINE_S)
        second.send_signal(signal.SIGTERM)
        _, log = second.communicate(timeout=DEADLINE_S)
    made = versions(registry, "late")

    assert told["step"] == 2
    assert "checkpoints.left" in output
    assert waiting == left == [1, 2]
    assert second.returncode == 0, log
    assert [version.step for version in made] == [1, 2]
    # Named after the trainer's folder, not after the one where they waited.
    assert parent_of(registry, made)["info"]["run_name"] == tmp_path.name
    assert queue.failed() == []
    assert "Traceback" not in output + log
