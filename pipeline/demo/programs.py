"""The programs of the demo beside the server: the training and `relay publish`, each as a person would start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.stack.child import Program
from registry_hooks.errors import StackError

PUBLISH_TIMEOUT_S = 180.0
_TAIL_CHARS = 2000
_RELAY = "from pipeline.cli import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where a demo runs.

    Attributes:
        run_dir: Everything that this demo writes.
        env: The settings of this demo, and where MLflow and S3 are, for every program of it.
    """

    run_dir: Path
    env: Mapping[str, str]

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.run_dir / "logs"


def training(place: Workplace, *, save_at: Sequence[int], run_id: str) -> Program:
    """The HF Trainer with Relay's callback; its curves go to the MLflow run `run_id`."""
    command = [sys.executable, "-P", "-m", "pipeline.demo.training", str(place.checkpoints)]
    command += ["--save-at", ",".join(str(step) for step in save_at)]
    env = {**place.env, "MLFLOW_RUN_ID": run_id, "OMP_NUM_THREADS": "1"}
    return Program(name="training", command=command, env=env)


def publish(place: Workplace, folder: Path, *, run_id: str) -> None:
    """Run `relay publish FOLDER --run-id RUN`, as a person does.

    Raises:
        StackError: It failed; the message has the end of its log.
    """
    log = place.logs / "publish.log"
    command = [sys.executable, "-P", "-c", _RELAY, "publish", str(folder), "--run-id", run_id]
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **place.env},
                check=False,
                timeout=PUBLISH_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(
                f"`relay publish {folder}` was stopped after {error.timeout:g} s; its log is {log}"
            ) from error
    if done.returncode != 0:
        tail = log.read_text(errors="replace")[-_TAIL_CHARS:]
        raise StackError(f"`relay publish {folder}` failed; its log {log} ends with:\n{tail}")
