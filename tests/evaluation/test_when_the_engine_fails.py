"""An engine that dies, hangs, talks nonsense or finds no room gives an error and never a score, and leaves nothing."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import psutil
import pytest

from pipeline.evaluation import conduct, evaluating
from pipeline.evaluation import test_set as test_sets
from pipeline.evaluation.conduct import Conduct, room_on
from pipeline.evaluation.evaluating import evaluate
from pipeline.evaluation.test_set import TestSet
from registry_hooks.errors import EvaluationError
from registry_hooks.settings import EngineSettings
from server.launcher import Engine, start_engine

PROGRAM = Path(__file__).parent / "programs" / "server_in_trouble.py"


@pytest.fixture(autouse=True)
def nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets and logs go below the test's own folder, and every child is gone afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive


@pytest.fixture
def items(write: Callable[..., Path]) -> TestSet:
    return test_sets.load(
        write(*({"id": f"q{number}", "prompt": f"say {number}:", "answer": " yes"} for number in range(40)))
    )


def scripted(then: str, after: int = 10, **changes: Any) -> EngineSettings:
    command = f"{sys.executable} {PROGRAM} --dir {{dir}} --port {{port}} --name {{name}} --then {then} --after {after}"
    return EngineSettings(command=command, stop_grace_s=1, **changes)


@pytest.mark.integration
def test_an_engine_that_is_killed_in_the_middle_gives_no_scores(
    lively: Path, engine: EngineSettings, items: TestSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_and_kill(*args: Any, **more: Any) -> Engine:
        started = start_engine(*args, **more)
        threading.Timer(0.05, lambda: os.kill(started.pid, signal.SIGKILL)).start()
        return started

    monkeypatch.setattr(evaluating, "start_engine", start_and_kill)
    many = test_sets.build([item for item in items.items for _ in range(20)], name="many")
    with pytest.raises(EvaluationError, match=r"the engine ended while it was asked.*SIGKILL") as failed:
        evaluate(lively, many, settings=engine, deadline_s=60)

    assert failed.value.transient
    assert failed.value.stage == "asking"


@pytest.mark.integration
def test_another_program_that_dies_gives_no_scores(lively: Path, items: TestSet) -> None:
    with pytest.raises(EvaluationError, match=r"ended while|went away") as failed:
        evaluate(lively, items, settings=scripted("die"), deadline_s=60)

    assert failed.value.transient


@pytest.mark.integration
def test_an_engine_that_hangs_is_killed_at_the_deadline(lively: Path, items: TestSet) -> None:
    started = time.monotonic()
    with pytest.raises(EvaluationError, match=r"not done after 6 s.*nothing was scored") as failed:
        evaluate(lively, items, settings=scripted("hang"), deadline_s=6)

    assert (failed.value.stage, failed.value.transient) == ("deadline", True)
    assert time.monotonic() - started < 15


@pytest.mark.integration
def test_an_engine_that_is_silent_too_long_is_given_up_before_the_deadline(lively: Path, items: TestSet) -> None:
    patience = Conduct(ask_timeout_s=0.5)
    with pytest.raises(EvaluationError, match=r"did not answer within 0.5 s") as failed:
        evaluate(lively, items, settings=scripted("hang"), deadline_s=60, conduct=patience)

    assert failed.value.transient


@pytest.mark.integration
def test_a_nan_in_the_middle_gives_no_scores(lively: Path, items: TestSet) -> None:
    with pytest.raises(EvaluationError, match=r"item 'q\d+'.*log-probability nan") as failed:
        evaluate(lively, items, settings=scripted("nan"), deadline_s=60)

    assert not failed.value.transient


@pytest.mark.integration
def test_an_engine_that_reads_another_prompt_gives_no_scores(lively: Path, items: TestSet) -> None:
    with pytest.raises(EvaluationError, match="both must mean the same text") as failed:
        evaluate(lively, items, settings=scripted("miscount"), deadline_s=60)

    assert failed.value.stage == "prompts"


@pytest.mark.integration
def test_a_good_program_gives_scores(lively: Path, write: Callable[..., Path]) -> None:
    answers = {"right": " x", "wrong": " y", "longer": " x x"}
    items = test_sets.load(
        write(*({"id": key, "prompt": f"say {key}:", "answer": text} for key, text in answers.items()))
    )
    found = evaluate(lively, items, settings=scripted("die", after=10_000), deadline_s=60)

    assert {item.item_id: item.score for item in found.items} == {"right": 1.0, "wrong": 0.0, "longer": 0.0}
    assert {item.loss for item in found.items} == {0.5}


@pytest.mark.integration
def test_a_checkpoint_that_does_not_load_is_a_failed_start_that_does_not_pass(
    lively: Path, engine: EngineSettings, items: TestSet, tmp_path: Path
) -> None:
    broken = copytree(lively, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(EvaluationError, match="did not start, so nothing was scored") as failed:
        evaluate(broken, items, settings=engine, deadline_s=60)

    assert (failed.value.stage, failed.value.transient) == ("start", False)


@pytest.mark.integration
def test_a_start_that_takes_too_long_ends_at_the_deadline(lively: Path, engine: EngineSettings, items: TestSet) -> None:
    with pytest.raises(EvaluationError, match=r"stage start") as failed:
        evaluate(lively, items, settings=engine, deadline_s=0.2)

    assert (failed.value.stage, failed.value.transient) == ("deadline", True)


@pytest.mark.integration
def test_an_item_that_does_not_fit_is_named(lively: Path, engine: EngineSettings, write: Callable[..., Path]) -> None:
    items = test_sets.load(write({"id": "long", "prompt": "x" * 300, "answer": "y"}))

    with pytest.raises(EvaluationError, match=r"item 'long'.*longest text is 256 tokens") as failed:
        evaluate(lively, items, settings=engine, deadline_s=60)

    assert not failed.value.transient


@pytest.mark.integration
def test_a_chat_template_that_never_ends_is_stopped_in_the_engine_and_never_run_here(
    lively: Path, engine: EngineSettings, write: Callable[..., Path], tmp_path: Path
) -> None:
    endless = copytree(lively, tmp_path / "endless")
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (endless / "chat_template.jinja").write_text(loop)
    items = test_sets.load(write({"id": "chat", "messages": [{"role": "user", "content": "hi"}], "answer": "y"}))

    with pytest.raises(EvaluationError, match=r"item 'chat'.*did not end within"):
        evaluate(endless, items, settings=engine, deadline_s=60)


@pytest.mark.integration
def test_a_program_that_cannot_tell_its_token_ids_is_refused_by_name(lively: Path, items: TestSet) -> None:
    with pytest.raises(EvaluationError, match=r"has no /tokenize \(HTTP 404\).*nothing was scored") as failed:
        evaluate(lively, items, settings=scripted("no-tokenize"), deadline_s=60)

    assert not failed.value.transient


@pytest.mark.parametrize(("free", "device"), [(3_000, "cuda"), (2_999, "cpu"), (None, "cpu")])
def test_a_full_gpu_means_the_cpu_where_that_is_wanted(free: int | None, device: str) -> None:
    wanted = Conduct(when_gpu_is_full="cpu", min_free_bytes=1_000)

    assert room_on("cuda", needed=2_000, free=free, conduct=wanted) == device


@pytest.mark.parametrize("free", [2_999, None])
def test_a_full_gpu_means_waiting_otherwise(free: int | None) -> None:
    with pytest.raises(EvaluationError, match="no engine was started") as failed:
        room_on("cuda", needed=2_000, free=free, conduct=Conduct(min_free_bytes=1_000))

    assert (failed.value.stage, failed.value.transient) == ("room", True)


def test_the_card_is_looked_at_before_an_engine_starts(
    lively: Path, items: TestSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct.engine_memory, "free_bytes", lambda device: 10)

    with pytest.raises(EvaluationError, match="no room"):
        evaluate(lively, items, settings=EngineSettings(device="cuda"), deadline_s=60)
