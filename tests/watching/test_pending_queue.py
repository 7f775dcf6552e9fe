"""Staged checkpoints on disk: whole or not there, bounded, and independent of the trainer's folders."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.checkpoint import inspect
from pipeline.watching.entries import Provenance
from pipeline.watching.pending import MAX_FAILED, PendingQueue
from registry_hooks import contract
from registry_hooks.errors import CorruptFileError, NotACheckpointError, UserError
from tests.watching.memory_world import Save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def queue(tmp_path: Path) -> PendingQueue:
    return PendingQueue(tmp_path / "pending", max_pending=3)


def steps(queue: PendingQueue) -> list[int]:
    return [entry.paper.step for entry in queue.entries()]


def hidden(queue: PendingQueue) -> list[str]:
    return [path.name for path in queue.folder.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_staging_links_exactly_what_is_published(queue: PendingQueue, save: Save) -> None:
    source = save(20)
    (source / "training_args.json").write_text("{}")
    entry = queue.stage(source, Provenance(parent_run_id="run")).entry
    assert entry is not None
    names = {path.name for path in entry.checkpoint.iterdir()}

    assert names == {*contract.published_files(p.name for p in source.iterdir()), "training_args.json"}
    assert "optimizer.pt" not in names
    assert all((entry.checkpoint / name).samefile(source / name) for name in names)
    assert queue.entries() == [entry]
    assert (entry.paper.origin, entry.paper.parent_run_id) == (source, "run")
    assert hidden(queue) == []


def test_an_entry_outlives_the_folder_that_it_was_staged_from(queue: PendingQueue, save: Save) -> None:
    source = save(20)
    weights = (source / "model.safetensors").read_bytes()
    entry = queue.stage(source).entry
    shutil.rmtree(source)

    assert entry is not None
    assert inspect(entry.checkpoint).step == 20
    assert (entry.checkpoint / "model.safetensors").read_bytes() == weights
    entry.check_unchanged()


def test_the_same_save_is_staged_once_and_another_save_of_that_name_again(queue: PendingQueue, save: Save) -> None:
    source = save(20)
    first, second = queue.stage(source).entry, queue.stage(source).entry
    shutil.rmtree(source)
    third = PendingQueue(queue.folder).stage(save(20)).entry

    assert first is not None
    assert second is None
    assert third is not None


def test_a_save_is_remembered_for_its_target_alone(queue: PendingQueue, save: Save) -> None:
    source = save(20)
    entry = queue.stage(source).entry
    assert entry is not None
    other = PendingQueue(queue.folder, target="another model")
    while_it_waits = queue.has_seen(source), other.has_seen(source)
    queue.done(entry)

    assert while_it_waits == (True, True)
    assert (queue.has_seen(source), other.has_seen(source)) == (True, False)


def test_a_full_queue_drops_the_oldest_and_says_so(queue: PendingQueue, save: Save) -> None:
    sources = [save(step) for step in (10, 20, 30, 40)]
    with capture_logs() as events:
        dropped = [entry.paper.step for source in sources for entry in queue.stage(source).dropped]

    assert dropped == [10]
    assert steps(queue) == [20, 30, 40]
    assert [(e["event"], e["step"]) for e in events] == [("checkpoint.dropped", 10)]
    assert not queue.has_seen(sources[0])
    assert len(hidden(queue)) == 1
    queue.sweep()
    assert hidden(queue) == []


def test_what_is_being_published_is_not_dropped(queue: PendingQueue, save: Save) -> None:
    for step in (10, 20, 30):
        queue.stage(save(step))
    with queue.claimed(queue.entries()[0]) as is_mine:
        queue.stage(save(40))

    assert is_mine
    assert steps(queue) == [10, 30, 40]


def test_the_newest_stays_even_alone(tmp_path: Path, save: Save) -> None:
    queue = PendingQueue(tmp_path / "pending", max_pending=0)
    for step in (10, 20):
        queue.stage(save(step))

    assert steps(queue) == [20]


def test_a_file_that_was_written_over_in_place_is_noticed(queue: PendingQueue, save: Save) -> None:
    source = save(20)
    entry = queue.stage(source).entry
    assert entry is not None
    with (source / "model.safetensors").open("r+b") as file:
        file.write(b"\0")

    with pytest.raises(CorruptFileError, match=r"model\.safetensors was written over"):
        entry.check_unchanged()


def test_where_links_are_impossible_files_are_copied(
    queue: PendingQueue, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = save(20)
    entry = queue.stage(source).entry
    assert entry is not None
    copy = entry.checkpoint / "model.safetensors"

    assert not copy.samefile(source / "model.safetensors")
    assert copy.read_bytes() == (source / "model.safetensors").read_bytes()
    assert inspect(entry.checkpoint).saved_at == inspect(source).saved_at


def test_a_link_is_staged_as_the_file_that_it_names(queue: PendingQueue, save: Save, tmp_path: Path) -> None:
    source = save(20)
    elsewhere = shutil.move(source / "model.safetensors", tmp_path / "weights")
    (source / "model.safetensors").symlink_to(elsewhere)
    entry = queue.stage(source).entry
    (source / "model.safetensors").unlink()

    assert entry is not None
    assert not (entry.checkpoint / "model.safetensors").is_symlink()


def test_a_folder_that_goes_away_meanwhile_leaves_nothing(
    queue: PendingQueue, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, link = save(20), os.link

    def delete_then_link(path: Path, target: Path) -> None:
        (source / "trainer_state.json").unlink(missing_ok=True)
        link(path, target)

    monkeypatch.setattr(os, "link", delete_then_link)

    with pytest.raises(NotACheckpointError, match="removed it meanwhile"):
        queue.stage(source)
    assert queue.entries() == []
    assert hidden(queue) == []


def test_what_failed_is_kept_with_its_reason_and_bounded(queue: PendingQueue, save: Save) -> None:
    for step in range(MAX_FAILED + 1):
        entry = queue.stage(save(step)).entry
        assert entry is not None
        queue.fail(entry, f"reason {step}")
    kept = queue.failed()

    assert queue.entries() == []
    assert [(e.paper.step, e.paper.failed_because) for e in kept] == [(s, f"reason {s}") for s in (1, 2, 3, 4)]
    assert inspect(kept[0].checkpoint).step == 1


def test_a_folder_that_cannot_be_written_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="where checkpoints wait"):
        PendingQueue(tmp_path / "file" / "pending")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda paper: paper.write_bytes(b"")])
def test_what_a_power_cut_spoilt_is_no_entry_and_is_removed(
    queue: PendingQueue, save: Save, spoil: Callable[[Path], object]
) -> None:
    entry = queue.stage(save(10)).entry
    assert entry is not None
    spoil(entry.paper_path)
    before = steps(queue)
    queue.stage(save(20))
    queue.sweep()

    assert before == []
    assert steps(queue) == [20]
    assert not entry.folder.exists()


KILLED_WHILE_STAGING = """
import os, signal, sys
from pathlib import Path
from pipeline.watching import pending
from pipeline.watching.pending import PendingQueue

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

source, folder, where = sys.argv[1:]
queue = PendingQueue(Path(folder))
if where == "link":
    link, num = os.link, iter(range(100))
    os.link = lambda a, b: die() if next(num) == 3 else link(a, b)
elif where == "paper":
    Path.write_bytes = die
elif where == "rename":
    Path.rename = die
else:
    pending.SeenSaves.remember = die
queue.stage(Path(source))
"""


@pytest.mark.parametrize(("where", "num_entries"), [("link", 0), ("paper", 0), ("rename", 0), ("after", 1)])
def test_a_crash_while_staging_leaves_nothing_or_a_whole_entry(
    queue: PendingQueue, save: Save, where: str, num_entries: int
) -> None:
    source = save(20)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_STAGING, str(source), str(queue.folder), where],
        cwd=ROOT,
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left, rubbish = queue.entries(), hidden(queue)
    queue.stage(save(30))
    queue.sweep()

    assert len(left) == num_entries
    assert len(rubbish) == 1 - num_entries
    assert all(inspect(entry.checkpoint).step == 20 for entry in left)
    assert hidden(queue) == []
    assert steps(queue) == [20] * num_entries + [30]
