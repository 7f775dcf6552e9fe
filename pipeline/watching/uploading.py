"""One background thread that publishes what is pending, oldest first; no training waits for it, or dies of it.

Of all processes that use one pending folder, one publishes; another takes over when that one ends, however it ends.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.publishing import Published
from pipeline.stages import PublishProgress
from pipeline.watching import retrying
from pipeline.watching.entries import Entry
from pipeline.watching.pending import PendingQueue
from pipeline.watching.retrying import GiveUp, Retry
from registry_hooks import events

Publish = Callable[[Entry, PublishProgress], Published]
POLL_S = 2.0
_JOIN_S = 10.0


class _StoppedError(Exception):
    """Nobody waits for this upload any more; what is not done stays on disk."""


@dataclass(slots=True)
class _Cancellable:
    """Ends an upload at its next byte once `stopped` is set."""

    stopped: threading.Event

    def begin(self, stage: str, total_bytes: int) -> None:
        self._check()

    def advance(self, stage: str, num_bytes: int) -> None:
        self._check()

    def end(self, stage: str, seconds: float) -> None:
        """Nothing: it is called while errors pass through."""

    def _check(self) -> None:
        if self.stopped.is_set():
            raise _StoppedError


@dataclass(slots=True)
class Turns:
    """Publishes one entry at a time and remembers how it went."""

    queue: PendingQueue
    publish: Publish
    stopped: threading.Event = field(default_factory=threading.Event)
    num_in_a_row: int = 0
    num_own: dict[str, int] = field(default_factory=dict)
    secured: set[str] = field(default_factory=set)

    def take(self) -> Published | Retry | GiveUp | None:
        """Publish the oldest entry; None when there is none, or it was stopped in the middle."""
        waiting = self.queue.entries()
        self._secure(waiting)
        for entry in waiting:
            with self.queue.claimed(entry) as is_mine:
                if is_mine:
                    return self._publish(entry)
        return None

    def _secure(self, waiting: list[Entry]) -> None:
        for entry in waiting:
            if entry.folder.name not in self.secured:
                self.queue.secure(entry)
        self.secured = {entry.folder.name for entry in waiting}

    def _publish(self, entry: Entry) -> Published | Retry | GiveUp | None:
        log = events.logger().bind(checkpoint=entry.paper.name, step=entry.paper.step)
        try:
            published = self.publish(entry, _Cancellable(self.stopped))
        except Exception as error:  # noqa: BLE001 - a training goes on, whatever its uploads meet
            if self.stopped.is_set():
                return None
            return self._after(error, entry)
        self.num_in_a_row = 0
        self.num_own.pop(entry.folder.name, None)
        self.queue.done(entry)
        version = published.version
        facts = {"version": version.label, "was_there": published.was_there, "size_bytes": published.size_bytes}
        facts |= {"notes": list(published.notes)} if published.notes else {}
        log.info("checkpoint.published", **facts, seconds=round(published.total_s, 1))
        return published

    def _after(self, error: Exception, entry: Entry) -> Retry | GiveUp:
        key = entry.folder.name
        self.num_in_a_row += 1
        self.num_own[key] = self.num_own.get(key, 0) + (not retrying.is_outage(error))
        outcome = retrying.after(
            error,
            num_in_a_row=self.num_in_a_row,
            num_own=self.num_own[key],
            jitter=random.random(),  # noqa: S311 - spreads tries, keeps no secret
        )
        log = events.logger().bind(checkpoint=entry.paper.name, step=entry.paper.step, because=outcome.because)
        if isinstance(outcome, GiveUp):
            self.num_in_a_row = 0
            self.num_own.pop(key, None)
            self.queue.fail(entry, outcome.because)
            log.error("checkpoint.failed", kept_in=str(self.queue.folder / "failed" / key))
        else:
            log.warning("upload.failed", again_in_s=round(outcome.delay_s, 1))
        return outcome


class Uploader(threading.Thread):
    """Publishes from `queue` until it is closed.

    Args:
        publish: Makes a version of an entry; may raise anything.
        poll_s: Between two looks for what other processes staged, or for the end of the one that publishes.
    """

    def __init__(self, queue: PendingQueue, publish: Publish, *, poll_s: float = POLL_S) -> None:
        super().__init__(name="relay-uploads", daemon=True)
        self._queue = queue
        self._poll_s = poll_s
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._turns = Turns(queue=queue, publish=publish, stopped=self._stopped)

    def notify(self) -> None:
        """Something was staged."""
        self._wake.set()

    def close(self, timeout_s: float) -> list[Entry]:
        """Wait at most `timeout_s` until all is published, by whichever process, then end.

        Returns:
            What is left on disk, for the next process.
        """
        deadline = time.monotonic() + timeout_s
        while self.is_alive() and self._queue.entries() and time.monotonic() < deadline:
            self._stopped.wait(min(0.05, max(0.0, deadline - time.monotonic())))
        self._stopped.set()
        self._wake.set()
        if self.is_alive():
            self.join(_JOIN_S)
        return self._queue.entries()

    def run(self) -> None:
        while not self._stopped.is_set():
            lead = self._lead()
            if lead is None:
                self._stopped.wait(self._poll_s)
                continue
            try:
                self._publish_all()
            except Exception as error:  # noqa: BLE001 - a full disk may be mended; the thread must outlive it
                events.logger().error("uploads.interrupted", because=repr(error), pending=str(self._queue.folder))
                self._stopped.wait(self._poll_s)
            finally:
                os.close(lead)

    def _lead(self) -> int | None:
        try:
            return self._queue.try_lead()
        except OSError:  # somebody removed the folder: it comes back with the next checkpoint, or never
            return None

    def _publish_all(self) -> None:
        """Publish whatever comes, as the leader, until it is stopped."""
        while not self._stopped.is_set():
            self._wake.clear()
            self._queue.sweep()
            outcome = self._turns.take()
            if outcome is None:
                self._wake.wait(self._poll_s)
            elif isinstance(outcome, Retry):
                self._stopped.wait(outcome.delay_s)
