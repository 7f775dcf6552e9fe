"""The thread that publishes: in order, through outages, past failures, and never twice at a time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.watching import retrying
from pipeline.watching.entries import Entry
from pipeline.watching.pending import PendingQueue
from pipeline.watching.retrying import GiveUp, Retry
from pipeline.watching.uploading import Publish, Uploader
from registry_hooks.backoff import Backoff
from registry_hooks.errors import (
    AccessDeniedError,
    Blame,
    CorruptFileError,
    EngineGoneError,
    EngineStartError,
    RegistryUnavailableError,
    StoreUnavailableError,
)
from tests.watching.memory_world import MemoryWorld, Save, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def queue(tmp_path: Path) -> PendingQueue:
    return PendingQueue(tmp_path / "pending", max_pending=5)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "BACKOFF", Backoff(first_s=0.01, longest_s=0.05))


@contextmanager
def uploading(queue: PendingQueue, publish: Publish) -> Iterator[Uploader]:
    uploader = Uploader(queue, publish, poll_s=0.02)
    uploader.start()
    try:
        yield uploader
    finally:
        uploader.close(0)
        assert not uploader.is_alive()


def test_what_an_earlier_process_left_is_published_oldest_first(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    for step in (30, 10, 20):
        queue.stage(save(step))
    with uploading(PendingQueue(queue.folder), world.publish) as uploader:
        left = uploader.close(20)

    assert left == []
    assert world.steps() == [30, 10, 20]


def test_the_trainer_may_delete_the_folder_while_it_is_uploaded(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    source = save(10)
    world.before_upload = lambda entry: shutil.rmtree(entry.paper.origin)
    queue.stage(source)
    with uploading(queue, world.publish) as uploader:
        left = uploader.close(20)

    assert left == []
    assert not source.exists()
    assert world.steps() == [10]


@pytest.mark.parametrize("who", ["registry", "store"])
def test_an_outage_loses_nothing_and_keeps_the_order(
    queue: PendingQueue, world: MemoryWorld, save: Save, who: str
) -> None:
    away = getattr(world, who)
    away.down = True
    with capture_logs() as events, uploading(queue, world.publish) as uploader:
        for step in (10, 20):
            queue.stage(save(step))
            uploader.notify()
        wait_until("it was tried a few times", lambda: world.num_tries >= 5)
        waiting = len(queue.entries())
        away.down = False
        left = uploader.close(20)

    assert waiting == 2
    assert left == []
    assert world.steps() == [10, 20]
    assert {e["event"] for e in events} == {"upload.failed", "checkpoint.published"}


def test_what_cannot_be_published_is_put_aside_and_the_rest_goes_on(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    world.errors[10] = EngineStartError("missing key lm_head", stage="load", blame=Blame.VERSION)
    for step in (10, 20):
        queue.stage(save(step))
    with capture_logs() as events, uploading(queue, world.publish) as uploader:
        left = uploader.close(20)
    [failed] = queue.failed()

    assert left == []
    assert world.steps() == [20]
    assert (failed.paper.step, failed.paper.failed_because) == (10, "missing key lm_head")
    assert [e["step"] for e in events if e["event"] == "checkpoint.failed"] == [10]


def test_a_bug_is_tried_a_few_times_and_ends_neither_the_thread_nor_the_rest(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    world.errors[10] = ZeroDivisionError("nobody foresaw it")
    for step in (10, 20):
        queue.stage(save(step))
    with uploading(queue, world.publish) as uploader:
        left = uploader.close(20)

    assert left == []
    assert world.steps() == [20]
    assert world.num_tries == retrying.MAX_OWN_FAILURES + 1
    assert "nobody foresaw it" in (queue.failed()[0].paper.failed_because or "")


def test_a_save_that_was_written_over_is_not_published_as_another(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    source = save(10)
    queue.stage(source)
    with (source / "config.json").open("a") as file:
        file.write("\n")
    with uploading(queue, world.publish) as uploader:
        uploader.close(20)

    assert world.steps() == []
    assert "written over" in (queue.failed()[0].paper.failed_because or "")


def test_closing_is_bounded_and_leaves_what_is_not_done_on_disk(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    world.registry.down = True
    queue.stage(save(10))
    with uploading(queue, world.publish) as uploader:
        left = uploader.close(0.3)

    assert [entry.paper.step for entry in left] == [10]
    assert queue.failed() == []


def test_closing_ends_an_upload_in_the_middle_and_keeps_its_entry(
    queue: PendingQueue, world: MemoryWorld, save: Save
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(entry: Entry) -> None:
        begun.set()
        go_on.wait(20)

    world.before_upload = hang
    queue.stage(save(10))
    with uploading(queue, world.publish) as uploader:
        assert begun.wait(20)
        threading.Timer(0.2, go_on.set).start()
        left = uploader.close(0)

    assert [entry.paper.step for entry in left] == [10]
    assert world.steps() == []
    assert queue.failed() == []


def test_two_uploaders_on_one_folder_publish_one_at_a_time(queue: PendingQueue, world: MemoryWorld, save: Save) -> None:
    num_running, most = [0], [0]

    def count(entry: Entry) -> None:
        num_running[0] += 1
        most[0] = max(most[0], num_running[0])
        time.sleep(0.02)
        num_running[0] -= 1

    world.before_upload = count
    with (
        uploading(queue, world.publish) as one,
        uploading(PendingQueue(queue.folder, max_pending=5), world.publish) as other,
    ):
        for step in (10, 20, 30):
            queue.stage(save(step))
        left = one.close(20) + other.close(20)

    assert left == []
    assert sorted(world.steps()) == [10, 20, 30]
    assert most == [1]


HANGS = """
import sys, time
from pathlib import Path
from pipeline.watching.pending import PendingQueue
from pipeline.watching.uploading import Uploader

def hang(entry, progress):
    print("publishing", flush=True)
    time.sleep(600)

uploader = Uploader(PendingQueue(Path(sys.argv[1])), hang)
uploader.start()
uploader.join()
"""


def test_another_process_takes_over_from_a_killed_one(queue: PendingQueue, world: MemoryWorld, save: Save) -> None:
    queue.stage(save(10))
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, str(queue.folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "publishing\n"
        with uploading(queue, world.publish) as uploader:
            time.sleep(0.2)
            between = world.num_tries
            first.send_signal(signal.SIGKILL)
            left = uploader.close(20)

    assert between == 0
    assert left == []
    assert world.steps() == [10]


@pytest.mark.parametrize(
    ("error", "num_own", "expected"),
    [
        (RegistryUnavailableError("away"), 0, Retry),
        (StoreUnavailableError("away"), 0, Retry),
        (AccessDeniedError("the token expired"), 0, Retry),
        (EngineGoneError("killed"), 1, Retry),
        (EngineGoneError("killed"), 3, GiveUp),
        (OSError("disk full"), 2, Retry),
        (OSError("disk full"), 3, GiveUp),
        (CorruptFileError("changed"), 1, GiveUp),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, num_own: int, expected: type) -> None:
    outcome = retrying.after(error, num_in_a_row=1, num_own=num_own, jitter=0.5)

    assert isinstance(outcome, expected)
    assert str(error) in outcome.because


def test_tries_are_spaced_out_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    error = RegistryUnavailableError("away")
    outcomes = [retrying.after(error, num_in_a_row=n, num_own=0, jitter=1.0) for n in (1, 2, 3, 8, 500)]

    assert [o.delay_s for o in outcomes if isinstance(o, Retry)] == [1.0, 2.0, 4.0, 120.0, 120.0]
