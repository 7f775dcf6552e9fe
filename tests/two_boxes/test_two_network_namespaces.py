"""A training box and an inference box that share nothing but registry and store, and a cable that is pulled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.prediction_client import PredictionClient
from pipeline.stack.child import Child, Program
from pipeline.stack.local import answers, running
from pipeline.stack.mlflow_server import HOST, mlflow_program
from pipeline.stack.s3_server import s3_binary, s3_program
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import StoreSettings
from tests.two_boxes.conftest import TRAINING_ADDRESS, TRAINING_NAME, Box, TwoBoxes

pytestmark = pytest.mark.integration

MODEL = "across"
KEYS = Credentials(access_key_id="relay-two-boxes", secret_access_key="a-secret-of-the-tests")
MLFLOW_PORT, S3_PORT, SERVE_PORT = 5000, 9000, 8765
MLFLOW_URL, S3_URL = f"http://{TRAINING_NAME}:{MLFLOW_PORT}", f"http://{TRAINING_NAME}:{S3_PORT}"
ENV = {
    "MLFLOW_TRACKING_URI": MLFLOW_URL,
    "MLFLOW_S3_ENDPOINT_URL": S3_URL,
    "AWS_ACCESS_KEY_ID": KEYS.access_key_id,
    "AWS_SECRET_ACCESS_KEY": KEYS.secret_access_key,
    "AWS_DEFAULT_REGION": "us-east-1",
    "RELAY_REGISTRY__NAME": MODEL,
    "RELAY_REGISTRY__TIMEOUT_S": "2",
    "RELAY_SERVE__PORT": str(SERVE_PORT),
    "RELAY_SERVE__POLL_S": "0.2",
    "RELAY_SERVE__SHUTDOWN_GRACE_S": "1",
    "RELAY_ENGINE__NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Running:
    """Registry and store on the training box."""

    box: Box

    def publish(self, folder: Path) -> None:
        relay = str(Path(sys.executable).with_name("relay"))
        command = self.box.command(relay, "publish", str(folder))
        done = subprocess.run(
            command, env={**os.environ, **ENV}, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def point_at(self, version: int) -> None:
        body = {"name": MODEL, "alias": "Production", "version": str(version)}
        url = f"http://127.0.0.1:{MLFLOW_PORT}/api/2.0/mlflow/registered-models/alias"
        self.box.inside(lambda: httpx.post(url, json=body, timeout=20, trust_env=False).raise_for_status())


def within(box: Box, program: Program, changes: dict[str, str]) -> Program:
    """The same program in a box, with some of its arguments replaced."""
    return replace(program, command=box.command(*(changes.get(part, part) for part in program.command)))


@pytest.fixture(scope="module")
def training(_joined: TwoBoxes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """MLflow and S3 on the training box."""
    tmp_path = tmp_path_factory.mktemp("training-box")
    box, (kind, binary) = _joined.training, s3_binary()
    s3 = s3_program(kind, binary, data=tmp_path / "s3", port=S3_PORT, credentials=KEYS)
    mlflow = mlflow_program(data_dir=tmp_path, port=MLFLOW_PORT, artifact_root="s3://relay/mlflow", env=ENV)
    mlflow = replace(mlflow, command=[*mlflow.command, "--allowed-hosts", f"{TRAINING_NAME}:*,127.0.0.1:*"])
    everywhere = {HOST: "0.0.0.0", f"{HOST}:{S3_PORT}": f"{TRAINING_ADDRESS}:{S3_PORT}"}  # noqa: S104 - in its own network
    with ExitStack() as until_the_end:
        children = [
            until_the_end.enter_context(running(within(box, program, everywhere), tmp_path)) for program in (s3, mlflow)
        ]
        store = S3Store(StoreSettings(), f"http://{TRAINING_ADDRESS}:{S3_PORT}", credentials=KEYS)
        children[0].wait_until(lambda: box.inside(_listens), timeout_s=30)
        box.inside(lambda: store.ensure_bucket("relay"))
        is_up = answers(f"http://127.0.0.1:{MLFLOW_PORT}/health")
        children[1].wait_until(lambda: box.inside(is_up), timeout_s=60)
        yield Running(box)


@pytest.fixture
def server(two_boxes: TwoBoxes, training: Running, tmp_path: Path) -> Iterator[Child]:
    """`python -m server` on the inference box, with a cache of its own."""
    command = two_boxes.inference.command(sys.executable, "-P", "-m", "server")
    told = {**ENV, "RELAY_SERVE__CACHE_DIR": str(tmp_path / "cache"), "RELAY_SERVE__SERVER_NAME": "inference"}
    with running(Program(name="server", command=command, env=told, grace_s=20), tmp_path) as child:
        is_up = answers(f"http://127.0.0.1:{SERVE_PORT}/health")
        child.wait_until(lambda: two_boxes.inference.inside(is_up), timeout_s=60)
        yield child


def _listens() -> bool:
    try:
        httpx.get(f"http://{TRAINING_ADDRESS}:{S3_PORT}", timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return True


def save(folder: Path, step: int) -> Path:
    from pipeline.demo.world import save_untrained

    checkpoint = folder / f"checkpoint-{step}"
    save_untrained(checkpoint, seed=step, initializer_range=0.2)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    return checkpoint


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    return pytest.fail(f"not within {timeout_s:g} s: {what}")


def doctor(box: Box, **environ: str) -> dict[str, dict[str, str]]:
    """What `relay doctor` of an inference box finds, by name."""
    program = (
        "import sys; from pipeline import doctor_command; from registry_hooks import settings; "
        "sys.exit(doctor_command.run(settings=settings.load(), role='inference', as_json=True))"
    )
    command = box.command(sys.executable, "-P", "-c", program)
    done = subprocess.run(
        command, env={**os.environ, **ENV, **environ}, capture_output=True, text=True, timeout=60, check=False
    )
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_version_is_served_across_and_a_pulled_cable_changes_nothing_but_the_news(
    two_boxes: TwoBoxes, training: Running, server: Child, tmp_path: Path
) -> None:
    box, client = two_boxes.inference, PredictionClient(f"http://127.0.0.1:{SERVE_PORT}")

    def chat() -> Any:
        return box.inside(lambda: client.chat("copy abc", max_tokens=4, temperature=0))

    def info() -> Any:
        return box.inside(client.get_model_info)

    for step in (10, 20):
        training.publish(save(tmp_path, step))
    training.point_at(1)
    wait_until("version 1 is served", lambda: info().version == 1)
    before = chat()

    two_boxes.cut()
    silent = wait_until("the silence is noticed", lambda: None if (seen := info()).registry_answers else seen)
    training.point_at(2)
    meanwhile = chat()
    still_ready = box.inside(client.health_check)

    two_boxes.heal()
    wait_until("version 2 is served", lambda: (seen := info()).version == 2 and seen.registry_answers)
    after = chat()
    client.close()

    assert (before.version, before.step) == (1, 10)
    assert silent.loaded
    assert MLFLOW_URL in silent.reason
    assert (meanwhile.version, meanwhile.text) == (1, before.text)
    assert bool(still_ready)
    assert (after.version, after.step) == (2, 20)
    assert server.alive


def test_doctor_on_the_inference_box_says_what_is_wrong_with_the_way(
    two_boxes: TwoBoxes, training: Running, tmp_path: Path
) -> None:
    box = two_boxes.inference
    cache = {"RELAY_SERVE__CACHE_DIR": str(tmp_path / "cache"), "RELAY_REGISTRY__NAME": "nobody"}
    by_name = doctor(box, **cache)
    by_address = doctor(box, **cache, MLFLOW_TRACKING_URI=f"http://{TRAINING_ADDRESS}:{MLFLOW_PORT}")
    two_boxes.cut()
    cut = doctor(box, **cache)

    assert {by_name[name]["verdict"] for name in ("registry", "registry clock", "S3 clock", "S3 read")} == {"ok"}
    assert by_name["registered model"]["verdict"] == "warning"
    assert by_address["registry"]["verdict"] == "ok"
    assert (by_address["registered model"]["verdict"], by_address["registered model"]["mend"][:46]) == (
        "failed",
        f"start it with: mlflow server --allowed-hosts '{TRAINING_ADDRESS}"[:46],
    )
    assert {cut[name]["verdict"] for name in ("registry", "registered model", "S3 clock", "S3 read")} == {"failed"}
