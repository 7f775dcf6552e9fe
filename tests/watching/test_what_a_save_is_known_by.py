"""Commit, arguments and base of a save are those of the training, however late it is uploaded."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline import code_state
from pipeline.publishing import PublishOptions
from pipeline.watching import publisher
from pipeline.watching.callback import RelayCallback
from pipeline.watching.entries import Entry, Provenance
from pipeline.watching.pending import PendingQueue
from pipeline.watching.publisher import EntryPublisher
from pipeline.watching.watch import FolderWatch, WatchOptions
from registry_hooks.errors import NotACheckpointError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.memory_store import MemoryStore
from registry_hooks.settings import RegistrySettings, Settings, StoreSettings
from tests.publishing.adapters import DOWN, Q0, Workshop
from tests.watching.memory_world import Save

NOWHERE = "http://127.0.0.1:9"
SETTINGS = Settings(registry=RegistrySettings(tracking_uri=NOWHERE), store=StoreSettings(endpoint_url=NOWHERE))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    subprocess.run(["git", "-C", str(folder), "init", "--quiet"], check=True)
    commit(folder, "first")
    return folder


def commit(code: Path, text: str) -> str | None:
    (code / "train.py").write_text(text)
    git = ["git", "-C", str(code), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", text], check=True)
    return code_state.look(code).commit


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], PublishOptions]]:
    """What publishing is asked for: the names in the folder, and the options."""
    asked: list[tuple[list[str], PublishOptions]] = []

    def note(folder: Path, *, options: PublishOptions, **_: Any) -> None:
        asked.append((sorted(path.name for path in folder.iterdir()), options))

    monkeypatch.setattr(publisher, "publish", note)
    return asked


class Silent:
    """Nobody watches."""

    def begin(self, stage: str, total_bytes: int) -> None: ...

    def advance(self, stage: str, num_bytes: int) -> None: ...

    def end(self, stage: str, seconds: float) -> None: ...


def publish(entry: Entry) -> None:
    EntryPublisher(catalog=MemoryRegistry(), writer=MemoryStore(), settings=Settings())(entry, Silent())


@pytest.fixture
def workshop(tiny_checkpoint: Path, tmp_path: Path) -> Workshop:
    """An adapter as a training with PEFT saves it, and its base."""
    found = Workshop(base=tiny_checkpoint, folder=tmp_path / "sft")
    found.wrap(Q0)
    found.wrap(DOWN)
    found.write()
    (found.adapter / "training_args.bin").write_bytes(b"stays")
    return found


def train(callback: RelayCallback, output_dir: Path, step: int, *between: Any, **told: Any) -> None:
    state = SimpleNamespace(global_step=step, is_world_process_zero=True)
    args = SimpleNamespace(output_dir=str(output_dir), **told)
    callback.on_train_begin(args, state, SimpleNamespace())
    for do in between:
        do()
    callback.on_save(args, state, SimpleNamespace())
    callback.on_train_end(args, state, SimpleNamespace())


def only_entry(output_dir: Path) -> Entry:
    [entry] = PendingQueue(output_dir / ".relay-pending").entries()
    return entry


def test_the_commit_is_that_at_the_begin_of_the_training(
    training: Path, save: Save, code: Path, published: list[tuple[list[str], PublishOptions]]
) -> None:
    first = code_state.look(code)
    callback = RelayCallback(SETTINGS, code_dir=code, wait_s=0)
    train(callback, training, 20, lambda: commit(code, "while it trains"), lambda: save(20))
    commit(code, "before it is uploaded")
    publish(only_entry(training))

    assert [options.code for _, options in published] == [first]


def test_a_watched_save_has_the_commit_of_the_moment_when_it_is_taken(training: Path, save: Save, code: Path) -> None:
    queue = PendingQueue(training / ".relay-pending")
    watching = FolderWatch(training, queue, WatchOptions(settle_s=0.0, code_dir=code))
    now = code_state.look(code)
    save(20)
    watching.look(0.0)
    commit(code, "later")

    assert [entry.paper.code for entry in queue.entries()] == [now]


def test_a_work_tree_that_git_does_not_read_is_said_at_the_begin(
    training: Path, save: Save, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with capture_logs() as events:
        train(RelayCallback(SETTINGS, code_dir=code, wait_s=0), training, 20, lambda: save(20))

    assert ["safe.directory" in e["because"] for e in events if e["event"] == "commit.unknown"] == [True]


def test_the_trainings_arguments_go_with_the_save(
    training: Path, save: Save, published: list[tuple[list[str], PublishOptions]]
) -> None:
    told = '{"learning_rate": 0.001, "seed": 7}'
    train(RelayCallback(SETTINGS, wait_s=0), training, 20, lambda: save(20), to_json_string=lambda: told)
    publish(only_entry(training))

    assert [options.arguments for _, options in published] == [{"learning_rate": 0.001, "seed": 7}]
    assert not (training / "checkpoint-20" / "training_args.json").exists()


def test_arguments_that_cannot_be_told_cost_no_checkpoint(training: Path, save: Save) -> None:
    with capture_logs() as events:
        train(RelayCallback(SETTINGS, wait_s=0), training, 20, lambda: save(20), to_json_string=None)

    assert only_entry(training).paper.arguments is None
    assert "arguments.unknown" in {e["event"] for e in events}


def test_an_adapter_is_staged_as_it_is_and_merged_when_it_is_published(
    workshop: Workshop, published: list[tuple[list[str], PublishOptions]]
) -> None:
    train(RelayCallback(SETTINGS, merge=workshop.base, wait_s=0), workshop.folder, 7)
    entry = only_entry(workshop.folder)
    publish(entry)
    [(names, options)] = published

    assert (entry.paper.base, entry.paper.step) == (workshop.base.resolve(), 7)
    assert sorted(path.name for path in entry.checkpoint.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trainer_state.json",
    ]
    assert {"config.json", "model.safetensors", "tokenizer.json", "trainer_state.json"} <= set(names)
    assert not [name for name in names if name.startswith("adapter")]
    assert (options.base, options.origin) == (workshop.base.name, workshop.adapter)


def test_a_watched_adapter_is_taken_when_it_is_whole(workshop: Workshop) -> None:
    queue = PendingQueue(workshop.folder / ".relay-pending")
    watching = FolderWatch(workshop.folder, queue, WatchOptions(settle_s=5.0, base=workshop.base))
    weights = workshop.adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    half = [watching.look(now_s) for now_s in (0.0, 9.0)]
    weights.write_bytes(whole)
    settled = [watching.look(now_s) for now_s in (10.0, 15.0, 16.0)]

    assert "model.safetensors" in half[1]["checkpoint-7"]
    assert settled[1:] == [{}, {}]
    assert [entry.paper.base for entry in queue.entries()] == [workshop.base.resolve()]


def test_without_a_base_an_adapter_is_refused_with_what_to_do(workshop: Workshop) -> None:
    with pytest.raises(NotACheckpointError, match=r"RelayCallback\(merge=BASE\)"):
        PendingQueue(workshop.folder / ".relay-pending").stage(workshop.adapter)


def test_a_base_that_is_none_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match="no base model"):
        RelayCallback(SETTINGS, merge=tmp_path)


def test_a_whole_checkpoint_of_a_training_with_a_base_is_published_as_it_is(
    training: Path, save: Save, tiny_checkpoint: Path
) -> None:
    entry = PendingQueue(training / ".relay-pending").stage(save(20), Provenance(base=tiny_checkpoint)).entry

    assert entry is not None
    assert entry.paper.base is None
