"""`relay watch`: what it takes, what it leaves, and how it ends."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.watching import watch
from pipeline.watching.pending import PendingQueue
from pipeline.watching.watch import FolderWatch, WatchOptions
from registry_hooks.errors import Blame, EngineStartError, RelayError, UserError
from registry_hooks.settings import Settings
from tests.watching.memory_world import MemoryWorld, Save

OPTIONS = WatchOptions(settle_s=5.0, max_pending=2)


@pytest.fixture
def queue(training: Path) -> PendingQueue:
    return PendingQueue(training / ".relay-pending", max_pending=2)


@pytest.fixture
def watching(training: Path, queue: PendingQueue) -> FolderWatch:
    return FolderWatch(training, queue, OPTIONS)


def steps(queue: PendingQueue) -> list[int]:
    return [entry.paper.step for entry in queue.entries()]


def test_a_checkpoint_is_staged_once_it_rests(watching: FolderWatch, queue: PendingQueue, save: Save) -> None:
    folder = save(20)
    early = watching.look(0.0), watching.look(4.0)
    (folder / "optimizer.pt").write_bytes(b"still being written")
    changed = watching.look(6.0), watching.look(10.9)
    before = steps(queue)
    settled = watching.look(11.0)

    assert all("changed within" in reasons["checkpoint-20"] for reasons in (*early, *changed))
    assert before == []
    assert settled == {}
    assert steps(queue) == [20]


def test_a_restart_takes_nothing_twice(training: Path, watching: FolderWatch, queue: PendingQueue, save: Save) -> None:
    save(20)
    for now_s in (0.0, 5.0, 6.0):
        watching.look(now_s)
    queue.done(queue.entries()[0])
    again = FolderWatch(training, PendingQueue(queue.folder), OPTIONS)

    assert [again.look(now_s) for now_s in (0.0, 10.0)] == [{}, {}]
    assert steps(queue) == []


def test_old_checkpoints_wait_for_room_and_new_ones_do_not(
    watching: FolderWatch, queue: PendingQueue, save: Save
) -> None:
    for step in (10, 20, 30):
        save(step)
    watching.look(0.0)
    reasons = watching.look(5.0)
    first = steps(queue)
    save(40)
    watching.look(6.0)
    watching.look(11.0)

    assert first == [10, 20]
    assert reasons == {"checkpoint-30": "the queue is full"}
    assert 40 in steps(queue)


def test_what_was_dropped_is_taken_again_when_there_is_room(
    watching: FolderWatch, queue: PendingQueue, save: Save
) -> None:
    for step in (10, 20):
        save(step)
    watching.look(0.0)
    watching.look(5.0)
    save(30)
    watching.look(6.0)
    watching.look(11.0)
    without = steps(queue)
    watching.look(12.0)
    for entry in queue.entries():
        queue.done(entry)
    watching.look(17.0)

    assert without == [20, 30]
    assert steps(queue) == [10]


def test_a_folder_that_stays_half_written_is_told_of_once(watching: FolderWatch, save: Save) -> None:
    (save(20) / "model.safetensors").unlink()
    with capture_logs() as events:
        for now_s in (0.0, 4.0, 5.0, 6.0, 60.0):
            watching.look(now_s)

    assert [(e["event"], e["checkpoint"]) for e in events] == [("checkpoint.passed_over", "checkpoint-20")]


def test_a_disk_that_is_full_is_told_of_once_and_tried_again(
    watching: FolderWatch, queue: PendingQueue, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(20)
    with capture_logs() as events, monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", refuse)
        reasons = [watching.look(now_s) for now_s in (0.0, 5.0, 6.0)]
    watching.look(7.0)

    assert "No space left" in reasons[-1]["checkpoint-20"]
    assert [e["event"] for e in events] == ["checkpoint.passed_over"]
    assert steps(queue) == [20]


def test_links_files_and_hidden_folders_are_left_alone(
    watching: FolderWatch, queue: PendingQueue, training: Path, save: Save
) -> None:
    save(20).rename(training / "final")
    (training / "checkpoint-last").symlink_to(training / "final")
    (training / "checkpoint-notes").write_text("")
    (training / "tmp-checkpoint-30").mkdir()

    assert watching.look(0.0) == {}
    assert watching.look(9.0) == {}
    assert steps(queue) == []


def run_once(watching: FolderWatch, queue: PendingQueue, world: MemoryWorld) -> int:
    return watch.once(
        watching, queue, world.publish, options=WatchOptions(settle_s=0.01, once=True), stopped=threading.Event()
    )


@pytest.fixture
def hasty(training: Path, queue: PendingQueue) -> FolderWatch:
    return FolderWatch(training, queue, WatchOptions(settle_s=0.01))


def test_once_publishes_all_that_is_there_and_ends(
    hasty: FolderWatch, queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    for step in (100, 20, 3, 40):
        save(step)

    assert run_once(hasty, queue, world) == 0
    assert world.steps() == [3, 20, 40, 100]


def test_once_says_by_its_code_that_something_was_left(
    hasty: FolderWatch, queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    (save(20) / "config.json").unlink()
    save(30)

    assert run_once(hasty, queue, world) == 1
    assert world.steps() == [30]


def test_once_says_by_its_code_that_something_failed(
    hasty: FolderWatch, queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    world.errors[20] = EngineStartError("no", stage="load", blame=Blame.VERSION)
    save(20)

    assert run_once(hasty, queue, world) == 1


def test_once_ends_at_an_outage_and_keeps_what_waits(
    hasty: FolderWatch, queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    world.registry.down = True
    save(20)

    with pytest.raises(RelayError, match=r"1 wait in .*\.relay-pending"):
        run_once(hasty, queue, world)
    assert steps(queue) == [20]
    world.registry.down = False
    assert run_once(hasty, queue, world) == 0
    assert world.steps() == [20]


def test_once_gives_way_to_a_process_that_publishes(
    hasty: FolderWatch, queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    save(20)
    lead = PendingQueue(queue.folder).try_lead()
    assert lead is not None

    with pytest.raises(RelayError, match="another process publishes"):
        run_once(hasty, queue, world)


def unwatchable(kind: str, training: Path, save: Save) -> Path:
    if kind == "checkpoint":
        return save(20)
    if kind == "file":
        (training / "file").write_text("")
    return training if kind == "empty" else training / kind


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("file", "is a file"),
        ("empty", "holds no checkpoint-"),
        ("checkpoint", "is a checkpoint itself"),
    ],
)
def test_a_folder_that_cannot_be_watched_says_why(training: Path, save: Save, kind: str, words: str) -> None:
    folder = unwatchable(kind, training, save)

    with pytest.raises(UserError, match=words):
        watch.run(folder, settings=Settings(), options=WatchOptions(once=True))
