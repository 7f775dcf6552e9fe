"""`relay watch`: publishes what trainers write as `checkpoint-*` into a folder or below it, while they train."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.adapter import check_base
from pipeline.watching import wholeness
from pipeline.watching.entries import Entry, Provenance
from pipeline.watching.finding_folders import PATTERN, checkpoint_folders, name_of
from pipeline.watching.pending import DEFAULT_NAME, PendingQueue
from pipeline.watching.publisher import connected, target_of
from pipeline.watching.retrying import GiveUp, Retry
from pipeline.watching.uploading import Publish, Turns, Uploader
from pipeline.watching.wholeness import Sight, Take
from registry_hooks import events
from registry_hooks.errors import RelayError, UserError
from registry_hooks.settings import Settings

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
        code_dir: Work tree of the training code.
        base: The model that LoRA adapters are merged into.
    """

    once: bool = False
    poll_s: float = 2.0
    settle_s: float = 5.0
    pending_dir: Path | None = None
    max_pending: int = 8
    run_id: str | None = None
    code_dir: Path = field(default_factory=Path)
    base: Path | None = None


class FolderWatch:
    """Stages the finished checkpoints of a folder into a queue.

    What is there at the first look waits in its place until the queue has room; what comes later is staged at once,
    since the trainer may delete it, and then the oldest of the queue is dropped if it must be.
    """

    def __init__(self, folder: Path, queue: PendingQueue, options: WatchOptions) -> None:
        self._folder = folder
        self._queue = queue
        self._options = options
        self._provenance = Provenance(parent_run_id=options.run_id, code_dir=options.code_dir, base=options.base)
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
        found = {name_of(folder, self._folder): folder for folder in self._folders()}
        new = {name: folder for name, folder in found.items() if not self._queue.has_seen(folder)}
        if self._patient is None:
            self._patient = set(new)
        self._sights = {name: sight for name, sight in self._sights.items() if name in new}
        reasons = {name: self._take(name, folder, now_s) for name, folder in new.items()}
        return {name: because for name, because in reasons.items() if because}

    def _folders(self) -> list[Path]:
        return checkpoint_folders(self._folder, apart_from=self._queue.folder)

    def _take(self, name: str, folder: Path, now_s: float) -> str:
        sight = wholeness.look(folder, base=self._options.base)
        known, since_s = self._sights.get(name, (None, now_s))
        if known != sight:
            since_s = now_s
        self._sights[name] = (sight, since_s)
        verdict = wholeness.decide(sight, unchanged_s=now_s - since_s, settle_s=self._options.settle_s)
        because, is_stuck = ("", False) if isinstance(verdict, Take) else (verdict.because, verdict.is_stuck)
        if isinstance(verdict, Take):
            because = self._stage(name, folder)
            is_stuck = bool(because) and because != _QUEUE_IS_FULL
        if is_stuck and self._told.get(name) != sight:
            self._told[name] = sight
            events.logger().warning("checkpoint.passed_over", checkpoint=name, because=because)
        return because

    def _stage(self, name: str, folder: Path) -> str:
        patient = self._patient if self._patient is not None else set()
        if name in patient and not self._queue.has_room():
            return _QUEUE_IS_FULL
        try:
            staged = self._queue.stage(folder, self._provenance)
        except UserError as error:
            return str(error)
        except OSError as error:  # a full disk, say: it is looked at again
            return f"it could not be staged into {self._queue.folder} ({error})"
        # Taken up again if they are still there.
        patient |= {name_of(one.paper.origin, self._folder.resolve()) for one in staged.dropped if self._is_in(one)}
        if staged.entry is not None:
            events.logger().info("checkpoint.staged", checkpoint=name, step=staged.entry.paper.step)
        return ""

    def _is_in(self, entry: Entry) -> bool:
        return entry.paper.origin.is_relative_to(self._folder.resolve())


def run(folder: Path, *, settings: Settings, options: WatchOptions) -> int:
    """Watch `folder` until Ctrl-C or SIGTERM, or publish what is there `once`; the process's exit code.

    Raises:
        UserError: There is no such folder, or nothing to publish once.
        RelayError: With `once`: what kept a checkpoint from being published.
    """
    _check(folder, options)
    if options.base is not None:
        check_base(options.base)
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
    if checkpoint_folders(folder):
        return
    if options.once:
        raise UserError(
            f"{folder} holds no {PATTERN} folder, nor do the folders in it, so nothing was published: watch it without "
            "--once"
        )
    events.logger().info("watch.waiting", folder=str(folder), because=f"it holds no {PATTERN} folder yet")


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
