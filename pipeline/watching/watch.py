"""`relay watch`: publishes what any trainer writes as `checkpoint-*` into a folder, while it trains."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.watching import wholeness
from pipeline.watching.pending import DEFAULT_NAME, PendingQueue
from pipeline.watching.publisher import connected, target_of
from pipeline.watching.retrying import GiveUp, Retry
from pipeline.watching.uploading import Publish, Turns, Uploader
from pipeline.watching.wholeness import Sight, Take
from registry_hooks import events
from registry_hooks.errors import NotACheckpointError, RelayError, UserError
from registry_hooks.settings import Settings

_PATTERN = "checkpoint-*"
_QUEUE_IS_FULL = "the queue is full"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """How to watch one folder.

    Attributes:
        once: Publish what is there, then end.
        poll_s: Between two looks.
        settle_s: How long a folder must stay as it is before it counts as finished.
        pending_dir: Where checkpoints wait; None for `.relay-pending` in the watched folder.
        run_id: The training run, as for `relay publish`.
    """

    once: bool = False
    poll_s: float = 2.0
    settle_s: float = 5.0
    pending_dir: Path | None = None
    max_pending: int = 8
    run_id: str | None = None
    code_dir: Path = field(default_factory=Path)


class FolderWatch:
    """Stages the finished checkpoints of a folder into a queue.

    What is there at the first look waits in its place until the queue has room; what comes later is staged at once,
    since the trainer may delete it, and then the oldest of the queue is dropped if it must be.
    """

    def __init__(self, folder: Path, queue: PendingQueue, options: WatchOptions) -> None:
        self._folder = folder
        self._queue = queue
        self._options = options
        self._sights: dict[str, tuple[Sight, float]] = {}
        self._told: dict[str, Sight] = {}
        self._patient: set[str] | None = None

    def look(self, now_s: float) -> dict[str, str]:
        """Stage what is finished by now.

        Args:
            now_s: Of a clock that never goes back.

        Returns:
            For each folder that was not staged, why.
        """
        new = [folder for folder in self._folders() if not self._queue.has_seen(folder)]
        if self._patient is None:
            self._patient = {folder.name for folder in new}
        self._sights = {name: sight for name, sight in self._sights.items() if name in {f.name for f in new}}
        reasons = {folder.name: self._take(folder, now_s) for folder in new}
        return {name: because for name, because in reasons.items() if because}

    def _folders(self) -> list[Path]:
        try:
            found = [path for path in self._folder.glob(_PATTERN) if path.is_dir() and not path.is_symlink()]
        except OSError:
            return []
        return sorted(found, key=wholeness.step_order)

    def _take(self, folder: Path, now_s: float) -> str:
        sight = wholeness.look(folder)
        known, since_s = self._sights.get(folder.name, (None, now_s))
        if known != sight:
            since_s = now_s
        self._sights[folder.name] = (sight, since_s)
        verdict = wholeness.decide(sight, unchanged_s=now_s - since_s, settle_s=self._options.settle_s)
        because, is_stuck = ("", False) if isinstance(verdict, Take) else (verdict.because, verdict.is_stuck)
        if isinstance(verdict, Take):
            because = self._stage(folder)
            is_stuck = bool(because) and because != _QUEUE_IS_FULL
        if is_stuck and self._told.get(folder.name) != sight:
            self._told[folder.name] = sight
            events.logger().warning("checkpoint.passed_over", checkpoint=folder.name, because=because)
        return because

    def _stage(self, folder: Path) -> str:
        patient = self._patient if self._patient is not None else set()
        if folder.name in patient and not self._queue.has_room():
            return _QUEUE_IS_FULL
        try:
            staged = self._queue.stage(folder, parent_run_id=self._options.run_id, code_dir=self._options.code_dir)
        except NotACheckpointError as error:
            return str(error)
        except OSError as error:  # a full disk, say: it is looked at again
            return f"it could not be staged into {self._queue.folder} ({error})"
        patient |= {entry.paper.name for entry in staged.dropped}  # taken up again if they are still there
        if staged.entry is not None:
            events.logger().info("checkpoint.staged", checkpoint=folder.name, step=staged.entry.paper.step)
        return ""


def run(folder: Path, *, settings: Settings, options: WatchOptions) -> int:
    """Watch `folder` until Ctrl-C or SIGTERM, or publish what is there `once`; the process's exit code.

    Raises:
        UserError: There is no such folder, or nothing to publish once.
        RelayError: With `once`: what kept a checkpoint from being published.
    """
    _check(folder, options)
    queue = PendingQueue(
        options.pending_dir or folder / DEFAULT_NAME, max_pending=options.max_pending, target=target_of(settings)
    )
    watch = FolderWatch(folder, queue, options)
    with _stop_on_signals() as stopped, connected(settings) as publisher:
        if options.once:
            return once(watch, queue, publisher, options=options, stopped=stopped)
        return _follow(watch, Uploader(queue, publisher), options=options, stopped=stopped)


def once(
    watch: FolderWatch, queue: PendingQueue, publish: Publish, *, options: WatchOptions, stopped: threading.Event
) -> int:
    """Publish what is finished in the folder, and what an earlier process left in the queue.

    Returns:
        0 when all was published, 1 when a folder was not finished or a checkpoint failed.

    Raises:
        RelayError: Registry or store are away, or another process publishes from this queue; nothing is lost.
    """
    lead = queue.try_lead()
    if lead is None:
        raise RelayError(
            f"another process publishes from {queue.folder}, so nothing was done here: it takes what it finds there; "
            "stop it, or name another folder for what is pending"
        )
    turns = Turns(queue=queue, publish=publish, stopped=stopped)
    failed = False
    try:
        queue.sweep()
        watch.look(time.monotonic())
        stopped.wait(options.settle_s)
        while not stopped.is_set():
            left = watch.look(time.monotonic())
            while (outcome := turns.take()) is not None and not stopped.is_set():
                if isinstance(outcome, Retry):
                    raise RelayError(f"{outcome.because}; {len(queue.entries())} wait in {queue.folder} for a next try")
                failed = failed or isinstance(outcome, GiveUp)
            if all(because != _QUEUE_IS_FULL for because in left.values()):
                for name, because in left.items():
                    events.logger().warning("checkpoint.left", checkpoint=name, because=because)
                return 1 if left or failed else 0
    finally:
        os.close(lead)
    return 0


def _follow(watch: FolderWatch, uploader: Uploader, *, options: WatchOptions, stopped: threading.Event) -> int:
    events.logger().info("watch.started", poll_s=options.poll_s, settle_s=options.settle_s)
    uploader.start()
    try:
        while not stopped.is_set():
            watch.look(time.monotonic())
            uploader.notify()
            stopped.wait(options.poll_s)
    finally:
        left = uploader.close(0)
        events.logger().info("watch.stopped", left=[entry.paper.name for entry in left])
    return 0


def _check(folder: Path, options: WatchOptions) -> None:
    if not folder.exists():
        raise UserError(f"{folder} does not exist, so nothing is watched: name the folder that the trainer writes into")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, so nothing is watched: name the folder that the trainer writes into")
    if (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is a checkpoint itself, so nothing is watched: watch {folder.parent}, or `relay publish` it"
        )
    if any(folder.glob(_PATTERN)):
        return
    if options.once:
        raise UserError(f"{folder} holds no {_PATTERN} folder, so nothing was published: watch it without --once")
    events.logger().info("watch.waiting", folder=str(folder), because=f"it holds no {_PATTERN} folder yet")


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; as before at the end."""
    stopped = threading.Event()
    # Both explicitly: a shell starts background jobs with SIGINT ignored.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
