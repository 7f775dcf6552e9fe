"""lm-evaluation-harness gets from the server what it gets from its own HF backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).with_name("harness_scores.py")


@pytest.fixture(scope="module")
def scored(lively_checkpoint: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The harness's scores by its `own` backend and by `ours`; a process of its own, since it sets the world up."""
    command = [sys.executable, str(SCRIPT), str(lively_checkpoint), api_url, str(tmp_path_factory.mktemp("harness"))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_choosing_and_writing_score_the_same(scored: dict[str, Any]) -> None:
    own, ours = scored["own"], scored["ours"]

    assert {task: part["metrics"] for task, part in ours.items()} == {
        task: part["metrics"] for task, part in own.items()
    }
    assert {"acc,none", "acc_norm,none"} <= set(own["choosing"]["metrics"])


def test_log_likelihoods_are_the_same_numbers(scored: dict[str, Any]) -> None:
    pairs = zip(scored["own"]["choosing"]["answers"], scored["ours"]["choosing"]["answers"], strict=True)
    for own, ours in pairs:
        assert [float(likelihood) for likelihood, _ in ours] == pytest.approx([float(x) for x, _ in own], abs=1e-3)
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in own]


def test_greedy_texts_are_the_same(scored: dict[str, Any]) -> None:
    assert scored["ours"]["writing"]["answers"] == scored["own"]["writing"]["answers"]
