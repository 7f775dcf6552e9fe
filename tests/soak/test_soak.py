"""The short form of `make soak`, and the judge of its numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MB = 1_000_000


@pytest.mark.integration
def test_random_use_leaves_nothing_behind() -> None:
    command = [sys.executable, str(HERE / "random_use.py"), "--seconds", "15"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was left behind" in done.stdout


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE))
    import findings

    return findings


def samples(judge: Any, *, rss: Any = lambda s: 500 * MB, threads: int = 9, files: int = 30) -> list[Any]:
    """Thirty minutes of one sample every half minute; `rss` gives bytes by second."""
    return [
        judge.Sample(at_s=s, rss_bytes=int(rss(s)), num_threads=threads, num_files=files) for s in range(0, 1800, 30)
    ]


def test_a_level_run_is_well(judge: Any) -> None:
    level = samples(judge)

    assert judge.findings(level, level[-1], {"chat": 900}, left={"num_running": 0}) == []


def test_memory_that_rises_for_ever_is_found(judge: Any) -> None:
    rising = samples(judge, rss=lambda s: 500 * MB + 30_000 * s)

    assert judge.findings(rising, rising[-1], {}, left={}) == ["memory grows by 108 MB an hour"]


def test_threads_and_files_that_stay_are_found(judge: Any) -> None:
    level = samples(judge)
    after = judge.Sample(at_s=1800, rss_bytes=500 * MB, num_threads=40, num_files=90)

    assert judge.findings(level, after, {}, left={}) == [
        "40 threads at rest, 9 were enough under load",
        "90 open files at rest, 30 were enough under load",
    ]


def test_a_stuck_request_and_a_wrong_status_are_found(judge: Any) -> None:
    level = samples(judge)
    counts = {"chat": 3, "unexpected 500": 2, "stuck": 1}

    assert judge.findings(level, level[-1], counts, left={"num_running": 1, "num_waiting": 0}) == [
        "2 x unexpected 500",
        "1 x stuck",
        "1 requests are left in num_running",
    ]


def test_a_dead_engine_is_found(judge: Any) -> None:
    assert judge.findings(samples(judge), None, {}, left={}) == ["the engine died under load"]
