"""Programs of the stack end with us, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.stack.child import MAX_LOG_BYTES, Child, Program
from registry_hooks.errors import StackError

# Starts a child of its own, as MLflow does, ignores SIGTERM, and says who they are.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), other.pid, flush=True)
time.sleep(600)
"""
PARENT = """
import sys, time
from pathlib import Path
from pipeline.stack.child import Child, Program
child = Child(Program(name="stubborn", command=[sys.executable, "-c", sys.argv[2]], grace_s=0.5), Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(600)
"""


def wait_for_pids(log: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        words = log.read_text().split() if log.exists() else []
        if len(words) >= 2:
            return [int(word) for word in words[:2]]
        time.sleep(0.05)
    raise AssertionError("the program did not start")


def alive(pids: list[int]) -> list[int]:
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


def left_after(seconds: float, pids: list[int]) -> list[int]:
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive(pids)


def stubborn(grace_s: float = 0.5) -> Program:
    return Program(name="stubborn", command=[sys.executable, "-c", STUBBORN], grace_s=grace_s)


@pytest.mark.integration
def test_killing_the_parent_leaves_no_program_behind(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log), STUBBORN], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        guard = int(parent.stdout.readline())
        pids = [guard, *wait_for_pids(log)]
        parent.kill()

    assert left_after(3, pids) == []


@pytest.mark.integration
def test_stop_ends_a_program_that_ignores_sigterm_and_its_children(tmp_path: Path) -> None:
    child = Child(stubborn(), tmp_path / "stubborn.log")
    pids = [child.pid, *wait_for_pids(child.log)]

    child.stop()

    assert not child.alive
    assert alive(pids) == []


@pytest.mark.integration
def test_what_a_crashed_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    child = Child(stubborn(), tmp_path / "stubborn.log")
    program, worker = wait_for_pids(child.log)
    os.kill(program, signal.SIGKILL)

    assert left_after(3, [child.pid, program, worker]) == []
    assert not child.alive
    child.stop()


@pytest.mark.integration
def test_a_program_that_ends_while_it_starts_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('the disk is on fire')"]
    child = Child(Program(name="burning", command=command), tmp_path / "burning.log")

    with pytest.raises(StackError, match=r"burning ended with code 1(.|\n)*the disk is on fire"):
        child.wait_until(lambda: False, timeout_s=30)


@pytest.mark.integration
def test_a_program_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    child = Child(stubborn(), tmp_path / "stubborn.log")
    pids = [child.pid, *wait_for_pids(child.log)]

    with pytest.raises(StackError, match="was not ready after"):
        child.wait_until(lambda: False, timeout_s=0.2)
    assert alive(pids) == []


@pytest.mark.integration
def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = Child(Program(name="nowhere", command=["/no/such/program"]), tmp_path / "nowhere.log")

    with pytest.raises(StackError, match=r"nowhere ended with code 127(.|\n)*/no/such/program cannot be started"):
        child.wait_until(lambda: False, timeout_s=30)


@pytest.mark.integration
def test_a_long_log_is_rotated_when_the_program_starts(tmp_path: Path) -> None:
    log = tmp_path / "short.log"
    log.write_bytes(b"x" * (MAX_LOG_BYTES + 1))

    child = Child(Program(name="short", command=[sys.executable, "-c", "print('hello')"]), log)
    left_after(10, [child.pid])
    child.stop()

    assert log.read_text() == "hello\n"
    assert (tmp_path / "short.log.1").stat().st_size == MAX_LOG_BYTES + 1


@pytest.mark.integration
def test_warnings_as_errors_of_the_parent_do_not_reach_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    command = [sys.executable, "-c", "import os; print(os.environ.get('PYTHONWARNINGS'))"]
    child = Child(Program(name="warned", command=command), tmp_path / "warned.log")
    left_after(10, [child.pid])
    child.stop()

    assert child.log.read_text() == "None\n"
