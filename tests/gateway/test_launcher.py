"""Starting and stopping engine children."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from registry_hooks.errors import Blame, EngineStartError, StartCancelledError
from server import gpu, launcher
from server.engine_child import EngineChild
from server.engine_spec import EngineEvent, EngineSpec
from server.launcher import start_engine
from server.socket_folder import socket_dir

PARENT = """
import sys, time
from pathlib import Path
from server.engine_child import EngineChild
child = EngineChild(Path(sys.argv[1]), stop_grace_s=1)
print(child.pid, flush=True)
time.sleep(60)
"""


def a_spec(folder: Path, sockets: Path) -> EngineSpec:
    return EngineSpec(checkpoint_dir=str(folder), uds=str(sockets / "e.sock"), model_name="m", num_threads=1)


@pytest.fixture
def sockets() -> Path:
    return socket_dir()


@pytest.mark.integration
def test_a_spare_becomes_an_engine_that_answers_and_is_gone_when_stopped(
    tiny_checkpoint: Path, sockets: Path, tmp_path: Path
) -> None:
    spare = EngineChild(tmp_path / "spare.log", stop_grace_s=2)
    died = threading.Event()

    with start_engine(
        a_spec(tiny_checkpoint, sockets), log_path=tmp_path / "unused.log", start_timeout_s=60, spare=spare
    ) as engine:
        engine.when_dead(died.set)
        transport = httpx.HTTPTransport(uds=engine.spec.uds)
        with httpx.Client(transport=transport, base_url="http://engine", timeout=10) as client:
            health = client.get("/health").json()

    assert health["status"] == "ok"
    assert (engine.ready.device, engine.ready.dtype) == ("cpu", "float32")
    assert engine.pid == spare.pid
    assert died.wait(5)
    assert not psutil.pid_exists(engine.pid)
    assert not Path(engine.spec.uds).exists()


@pytest.mark.integration
def test_a_folder_that_is_no_checkpoint_is_a_named_failure(sockets: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=r"config\.json") as caught:
        start_engine(a_spec(tmp_path, sockets), log_path=tmp_path / "e.log", start_timeout_s=60)

    assert caught.value.stage == "load"
    assert caught.value.blame is Blame.VERSION


def test_a_process_that_dies_before_it_is_ready_says_how(
    sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = (sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit('no torch here')")
    monkeypatch.setattr(launcher, "ENGINE", dying)

    with pytest.raises(EngineStartError, match="no torch here") as caught:
        start_engine(a_spec(tmp_path, sockets), log_path=tmp_path / "e.log", start_timeout_s=60)

    assert caught.value.stage == "import"


SAYS = "import sys; sys.stdin.readline(); print(sys.argv[1], flush=True); sys.stdin.read()"
DIES = "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("said", "command", "blame"),
    [
        ("version", "", Blame.VERSION),
        ("policy", "", Blame.POLICY),
        ("box", "", Blame.BOX),
        ("the moon", "", Blame.BOX),
        ("version", "vllm serve {dir}", Blame.BOX),
    ],
)
def test_an_engine_that_fails_says_who_is_at_fault_and_another_program_never_blames_the_version(
    said: str, command: str, blame: Blame, sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = EngineEvent(event="failed", stage="load", reason="why", blame=said).to_line().decode()
    for name in ("ENGINE", "SUBSTITUTE"):
        monkeypatch.setattr(launcher, name, (sys.executable, "-c", SAYS, event))
    spec = dataclasses.replace(a_spec(tmp_path, sockets), command=command)

    with pytest.raises(EngineStartError, match="why") as caught:
        start_engine(spec, log_path=tmp_path / "e.log", start_timeout_s=60)

    assert caught.value.blame is blame


def test_an_engine_that_is_killed_while_it_loads_says_nothing_of_the_version(
    sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ENGINE", (sys.executable, "-c", DIES))

    with pytest.raises(EngineStartError, match="SIGKILL") as caught:
        start_engine(a_spec(tmp_path, sockets), log_path=tmp_path / "e.log", start_timeout_s=60)

    assert (caught.value.blame, caught.value.transient) == (Blame.BOX, True)


@pytest.mark.integration
@pytest.mark.skipif(gpu.card() is not None, reason="this machine has a card")
@pytest.mark.parametrize(
    ("wanted", "blame"), [({"device": "cuda"}, Blame.BOX), ({"max_model_len_tokens": 10**6}, Blame.POLICY)]
)
def test_what_this_box_lacks_or_asks_for_is_not_held_against_the_version(
    tiny_checkpoint: Path, wanted: dict[str, Any], blame: Blame, sockets: Path, tmp_path: Path
) -> None:
    spec = dataclasses.replace(a_spec(tiny_checkpoint, sockets), **wanted)

    with pytest.raises(EngineStartError, match=next(iter(wanted))) as caught:
        start_engine(spec, log_path=tmp_path / "e.log", start_timeout_s=60)

    assert caught.value.blame is blame


def test_a_process_that_never_becomes_ready_is_ended_at_the_deadline(
    sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ENGINE", (sys.executable, "-c", "import time; time.sleep(600)"))

    with pytest.raises(EngineStartError, match="start_timeout_s") as caught:
        start_engine(a_spec(tmp_path, sockets), log_path=tmp_path / "e.log", start_timeout_s=0.5)

    assert caught.value.stage == "timeout"
    assert not [c for c in psutil.Process().children() if "time.sleep(600)" in " ".join(c.cmdline())]


def test_a_start_that_is_no_longer_wanted_ends_before_its_deadline(
    sockets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ENGINE", (sys.executable, "-c", "import time; time.sleep(601)"))

    with pytest.raises(StartCancelledError):
        start_engine(
            a_spec(tmp_path, sockets), log_path=tmp_path / "e.log", start_timeout_s=600, cancelled=lambda: True
        )

    assert not [c for c in psutil.Process().children() if "time.sleep(601)" in " ".join(c.cmdline())]


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); time.sleep(600)"
    )
    child = EngineChild(tmp_path / "e.log", stop_grace_s=0.3, command=[sys.executable, "-c", stubborn])
    child.wait_dead(0.5)

    child.stop()

    assert not child.is_alive()


STARTS_ANOTHER = """
import os, subprocess, sys, time
events, below = os.dup(1), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=2)
os.dup2(2, 1)
print(below.pid, file=sys.stderr, flush=True)
time.sleep(600)
"""


def test_what_a_killed_engine_had_started_ends_with_it_however_often_somebody_asks_whether_it_lives(
    tmp_path: Path,
) -> None:
    left = []
    for number in range(6):
        child = EngineChild(tmp_path / f"{number}.log", stop_grace_s=1, command=[sys.executable, "-c", STARTS_ANOTHER])
        while not (said := child.log_path.read_text()).endswith("\n"):
            child.wait_dead(0.02)
        os.kill(child.pid, signal.SIGKILL)
        while child.is_alive():
            child.last_words()
        left.append(psutil.Process(int(said)) if psutil.pid_exists(int(said)) else None)
        child.stop()

    _, alive = psutil.wait_procs([process for process in left if process is not None], timeout=5)
    assert not alive


@pytest.mark.integration
def test_a_spare_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "e.log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    engine = psutil.Process(int(parent.stdout.readline()))

    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([engine], timeout=3)

    assert gone


def test_keys_are_not_handed_down_to_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RELAY_SERVE__API_KEY"):
        monkeypatch.setenv(name, "hush")
    shows = [sys.executable, "-c", "import os, sys; print(dict(os.environ), file=sys.stderr)"]
    child = EngineChild(tmp_path / "e.log", stop_grace_s=1, command=shows)
    child.wait_dead(20)
    child.stop()

    assert "PATH" in child.log_path.read_text()
    assert "hush" not in child.log_path.read_text()
