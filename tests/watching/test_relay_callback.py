"""`RelayCallback` towards the Trainer: quick, on one rank, and harmless whatever happens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.watching import callback as callbacks
from pipeline.watching.callback import RelayCallback
from pipeline.watching.entries import Entry
from pipeline.watching.pending import PendingQueue
from pipeline.watching.publisher import beside_a_training
from registry_hooks.errors import SettingsError
from registry_hooks.settings import EngineSettings, RegistrySettings, Settings, StoreSettings
from tests.watching.memory_world import MemoryWorld, Save

NOWHERE = "http://127.0.0.1:9"
SETTINGS = Settings(registry=RegistrySettings(tracking_uri=NOWHERE), store=StoreSettings(endpoint_url=NOWHERE))


@dataclass
class Training:
    """What a callback is told of a training, step by step."""

    output_dir: Path
    callback: RelayCallback
    rank_zero: bool = True
    step: int = 0
    control: Any = field(default_factory=SimpleNamespace)

    def tell(self, what: str) -> None:
        state = SimpleNamespace(global_step=self.step, is_world_process_zero=self.rank_zero)
        getattr(self.callback, what)(SimpleNamespace(output_dir=str(self.output_dir)), state, self.control, model=None)

    def run(self, save: Save, *steps: int) -> None:
        self.tell("on_train_begin")
        for self.step in steps:
            save(self.step)
            self.tell("on_save")
        self.tell("on_train_end")


@pytest.fixture
def connected_to(monkeypatch: pytest.MonkeyPatch) -> Any:
    def replace(world: MemoryWorld) -> None:
        @contextmanager
        def connected(settings: Settings) -> Iterator[Any]:
            yield world.publish

        monkeypatch.setattr(callbacks, "connected", connected)

    return replace


def pending(folder: Path) -> list[Entry]:
    return PendingQueue(folder / ".relay-pending").entries()


def test_every_save_becomes_a_version(training: Path, save: Save, world: MemoryWorld, connected_to: Any) -> None:
    connected_to(world)
    Training(training, RelayCallback(SETTINGS, wait_s=20)).run(save, 10, 20)

    assert world.steps() == [10, 20]
    assert pending(training) == []


def test_a_second_training_publishes_what_the_first_left(
    training: Path, save: Save, world: MemoryWorld, connected_to: Any
) -> None:
    world.registry.down = True
    connected_to(world)
    with capture_logs() as events:
        Training(training, RelayCallback(SETTINGS, wait_s=0)).run(save, 10)
    world.registry.down = False
    left = pending(training)
    Training(training, RelayCallback(SETTINGS, wait_s=20)).run(save, 20)

    assert [entry.paper.step for entry in left] == [10]
    assert [e["left"] for e in events if e["event"] == "checkpoints.left"] == [["checkpoint-10"]]
    assert world.steps() == [10, 20]


def test_other_ranks_do_nothing(training: Path, save: Save, world: MemoryWorld, connected_to: Any) -> None:
    connected_to(world)
    Training(training, RelayCallback(SETTINGS), rank_zero=False).run(save, 10)

    assert world.num_tries == 0
    assert not (training / ".relay-pending").exists()


def test_saving_does_not_wait_for_an_upload_under_way(
    training: Path, save: Save, world: MemoryWorld, connected_to: Any
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(entry: Entry) -> None:
        begun.set()
        go_on.wait(60)

    world.before_upload = hang
    connected_to(world)
    steps = Training(training, RelayCallback(SETTINGS, wait_s=20))
    for steps.step in (10, 20, 30):
        save(steps.step)
        steps.tell("on_save")
        assert begun.wait(20)
    before = world.steps()
    go_on.set()
    steps.tell("on_train_end")

    assert before == []
    assert world.steps() == [10, 20, 30]


@pytest.mark.parametrize("trouble", ["no checkpoint", "an adapter", "pending is a file", "a bug"])
def test_nothing_reaches_the_training(
    training: Path, save: Save, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    steps = Training(training, RelayCallback(SETTINGS, wait_s=0), step=10)
    if trouble == "an adapter":
        folder = save(10)
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif trouble == "pending is a file":
        save(10)
        (training / ".relay-pending").write_text("")
    elif trouble == "a bug":
        monkeypatch.setattr(PendingQueue, "stage", None)
    with capture_logs() as events:
        for what in ("on_train_begin", "on_save", "on_train_end"):
            steps.tell(what)

    assert "callback.failed" in {e["event"] for e in events}


def test_what_is_wrong_with_the_settings_is_said_before_the_training() -> None:
    with pytest.raises(SettingsError):
        RelayCallback(Settings(registry=RegistrySettings(tracking_uri="sqlite:///here.db")))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (NOWHERE, "abc"),
        (f"{NOWHERE}/", "abc"),
        ("http://localhost:9", "abc"),
        ("http://me:secret@127.0.0.1:9", "abc"),
        ("http://127.0.0.1:10", None),
        ("http://mlflow:9", None),
        ("file:///mlruns", None),
    ],
)
def test_the_run_of_mlflows_callback_is_the_parent_where_the_server_is_ours(
    monkeypatch: pytest.MonkeyPatch, training: Path, save: Save, server: str, expected: str | None
) -> None:
    run = SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    mlflow = SimpleNamespace(active_run=lambda: run, get_tracking_uri=lambda: server)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    with capture_logs() as events:
        Training(training, RelayCallback(SETTINGS, wait_s=0)).run(save, 10, 20)

    assert [entry.paper.parent_run_id for entry in pending(training)] == [expected] * 2
    assert [e["run"] for e in events if e["event"] == "parent_run.elsewhere"] == ([] if expected else ["abc"])


def test_golden_answers_leave_the_card_to_the_trainer_unless_somebody_chose_it() -> None:
    chosen = Settings(engine=EngineSettings(device="cuda"))

    assert beside_a_training(Settings()).engine.device == "cpu"
    assert beside_a_training(chosen) is chosen
