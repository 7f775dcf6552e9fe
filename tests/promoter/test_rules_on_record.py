"""A real promoter scores on a test set and writes that down; a pass by hand that lacks the set finds it and stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.integration


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Three with different weights, each with a better eval_loss than the one before."""
    from pipeline.demo.world import save_untrained

    folders = []
    for step in (10, 20, 30):
        folder = tmp_path / f"checkpoint-{step}"
        save_untrained(folder, seed=step)
        history = [{"eval_loss": 5.0 - step / 10, "step": step}]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
        folders.append(folder)
    return folders


def test_a_pass_without_the_promoters_test_set_moves_nothing(
    stack: Any, checkpoints: list[Path], tmp_path: Path
) -> None:
    name = f"rules-{uuid.uuid4().hex[:8]}"
    test_set = tmp_path / "held-out.jsonl"
    test_set.write_text('{"id": "a", "prompt": "7 is", "answer": " odd"}\n')
    env = {
        **os.environ,
        **stack.env,
        "RELAY_REGISTRY__NAME": name,
        "RELAY_ENGINE__NUM_THREADS": "1",
        "RELAY_ENGINE__DEVICE": "cpu",
        "RELAY_SERVE__CACHE_DIR": str(tmp_path / "cache"),
    }

    def relay(*arguments: str) -> tuple[int, str, str]:
        command = [str(Path(sys.executable).with_name("relay")), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150, check=False)
        return done.returncode, done.stdout, done.stderr

    for folder in checkpoints[:2]:
        relay("publish", str(folder))
        with_set = relay("reconcile", "--test-set", str(test_set))
    client = MlflowClient(tracking_uri=stack.tracking_uri, registry_uri=stack.tracking_uri)
    experiment = client.get_experiment_by_name(f"{name}/decisions")
    told = client.search_runs([experiment.experiment_id], max_results=1)[0].data.params
    relay("publish", str(checkpoints[2]))
    code, out, err = relay("reconcile")
    at_first = client.get_registered_model(name).aliases["Production"]
    asked_for = relay("reconcile", "--without-test-set")

    assert with_set[0] == 0, with_set
    assert told["test_set"] == "held-out", told
    assert told["test_set_source"] == str(test_set)
    assert len(told["test_set_digest"]) == 64
    assert (code, "it does not compare" in out, str(at_first)) == (2, True, "1")
    assert f"error: no versions of {name} were compared: the last automatic decision was by test set held-out" in err
    assert asked_for[0] == 0, asked_for
    assert str(client.get_registered_model(name).aliases["Production"]) == "3"
