"""The short form of `make chaos`, and the judges of what it sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.streams import StreamRecord

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.mark.integration
@pytest.mark.timeout(420)
def test_swaps_hangs_kills_and_restarts_fail_no_request() -> None:
    command = [sys.executable, str(HERE / "chaos.py"), "--swaps", "4", "--hits", "2", "--restarts", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing failed, nothing was left behind" in done.stdout


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE))
    import many_users
    import swapping

    return many_users, swapping


def whole(version: int, text: str) -> StreamRecord:
    return StreamRecord(
        status=200,
        version=version,
        fingerprints=(f"mv{version}-0123abcd",),
        text=text,
        finish_reason="stop",
        is_done=True,
    )


def test_an_answer_in_the_words_of_another_version_is_found(judges: Any) -> None:
    users, _ = judges
    seen = users.Seen(weights={1: 1, 2: 2, 3: 1})
    for version, text in ((1, "one"), (2, "two"), (3, "one")):
        seen.note("copy abc", whole(version, text), 0.1)

    assert seen.faults == []
    seen.note("copy abc", whole(3, "two"), 0.1)
    assert len(seen.faults) == 1


def test_a_cut_stream_is_a_fault_unless_its_engine_was_killed_on_purpose(judges: Any) -> None:
    users, _ = judges
    cut = StreamRecord(status=200, version=1, error="error event: the engine died")
    silent = StreamRecord(status=200, version=1)
    strict, lenient = users.Seen(weights={1: 1}), users.Seen(weights={1: 1}, expected_cut=True)
    for seen in (strict, lenient):
        seen.note("copy abc", cut, 0.1)
        seen.note("copy abc", silent, 0.1)

    assert len(strict.faults) == 2
    assert (lenient.num_cut, len(lenient.faults)) == (1, 1)


def test_descriptors_that_grow_with_each_swap_are_found(judges: Any) -> None:
    _, swapping = judges
    level = [swapping.Size(num_files=60, num_threads=9, num_children=3, rss_bytes=2 * 10**8) for _ in range(100)]
    leaking = [
        swapping.Size(num_files=60 + turn, num_threads=9, num_children=3, rss_bytes=2 * 10**8) for turn in range(100)
    ]

    assert swapping.grown(level) == []
    assert swapping.grown(leaking) == ["num_files grew from 74 to 150"]
