"""`relay promoter`: passes on a schedule, until it is told to stop.

APScheduler 3.11 goes wrong silently in four ways (measured): its default grace of a second skips passes that were late,
a hung job blocks all later ones, a job store's error ends its thread while it says that it runs, and two processes on
one store run everything twice. So: jobs in memory, no grace, one at a time, a lock, and a watchdog that ends a process
that does nothing any more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from pipeline.promotion.moves import this_person
from pipeline.promotion.reconciling import Outcome, Promoter
from pipeline.promotion.wiring import promoter_of
from registry_hooks import contract, events, file_lock
from registry_hooks.errors import RelayError, UnknownModelError, UserError
from registry_hooks.settings import Settings

HEARTBEAT_S = 30.0
# Beyond this another promoter's heartbeat says nothing.
_HEARTBEAT_OLD_S = 3 * HEARTBEAT_S
_WATCH_S = 1.0
_STUCK_EXIT_CODE = 70
# A pass fetches and scores the incumbent and all candidates of a decision, one after another, some of them twice.
_NUM_SCORED = 14
_SPARE_S = 60.0
# How long a pass may go on after the promoter was told to stop: most only read.
_END_S = 3.0


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the lock of the one promoter that runs on for this model on this machine.

    Raises:
        UserError: Another one runs.
    """
    lock = file_lock.try_exclusive(_lock_file(settings, "promoter"))
    if lock is None:
        raise UserError(
            f"another promoter of {settings.registry.name} runs on this machine, so this one did nothing: stop it "
            "first, or leave the work to it"
        )
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def one_pass(settings: Settings, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of passes, so that a pass by hand and the promoter's own take turns; waits for it.

    Args:
        on_wait: Called when somebody else has it.
    """
    path = _lock_file(settings, "pass")
    lock = file_lock.try_exclusive(path)
    if lock is None:
        on_wait()
        with file_lock.exclusive(path):
            yield
        return
    try:
        yield
    finally:
        os.close(lock)


def _lock_file(settings: Settings, what: str) -> Path:
    about = f"{settings.tracking_uri}\n{settings.registry.name}\n{settings.registry.alias}"
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"relay-{what}-{os.getuid()}-{digest}.lock"
    path.touch(mode=0o600)
    return path


def run(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Pass after pass until SIGINT or SIGTERM; the exit code.

    Raises:
        UserError: A policy or test set that cannot be used, or another promoter on this machine.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with only_one(settings), promoter_of(settings) as (promoter, lines):
        for line in (*lines, *_warnings(promoter)):
            say(line)
        passes = Passes(promoter, settings)
        scheduler = _scheduler()
        scheduler.add_job(
            passes.run_once,
            "interval",
            seconds=settings.promoter.interval_s,
            jitter=settings.promoter.interval_s / 10,
            next_run_time=datetime.now(UTC),
            id="reconcile",
            replace_existing=True,
        )
        scheduler.start()
        events.logger().info("promoter.started", model=settings.registry.name, interval_s=settings.promoter.interval_s)
        while not stop.wait(_WATCH_S):
            if passes.is_stuck():
                events.logger().error("promoter.stuck", is_in_a_pass=passes.is_busy)
                os._exit(_STUCK_EXIT_CODE)  # whoever supervises starts a new one; the registry says where it was
        scheduler.shutdown(wait=False)
        if not passes.ends_within(_END_S):
            # A pass may score for an hour. Its engine ends with this process, and the registry says where it was.
            events.logger().info("promoter.stopped", in_the_middle_of_a_pass=True)
            os._exit(0)
    events.logger().info("promoter.stopped")
    return 0


def _warnings(promoter: Promoter) -> list[str]:
    """What to say of a rule that is not that of the last decision. A registry that is away does not stop the start."""
    try:
        found = promoter.difference()
    except RelayError as error:
        return [f"Warning: by what rule the last decision was made cannot be told: {error}"]
    return [f"Warning: {found.sentence}"] if found is not None else []


class Passes:
    """What the schedule calls. Says in the log only what is new."""

    def __init__(self, promoter: Promoter, settings: Settings) -> None:
        self._promoter = promoter
        self._settings = settings
        self._said: tuple[str, ...] = ()
        self._beaten_at = 0.0
        self._since = time.monotonic()
        self._idle = threading.Event()
        self._idle.set()

    @property
    def is_busy(self) -> bool:
        """Whether a pass is under way."""
        return not self._idle.is_set()

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for the end of the pass that is under way; whether there was one in time, or none."""
        return self._idle.wait(timeout_s)

    def is_stuck(self, *, now_s: float | None = None) -> bool:
        """Whether a pass takes longer than all that it may wait for, or none has come although one should have.

        The schedule's own word for it does not count: it says that it runs also when its thread has ended.

        Args:
            now_s: Of `time.monotonic()`.
        """
        longest_s = _NUM_SCORED * (self._settings.evaluate.deadline_s + self._settings.serve.fetch_timeout_s)
        allowed_s = longest_s if self.is_busy else 10 * self._settings.promoter.interval_s
        return (time.monotonic() if now_s is None else now_s) - self._since > allowed_s + _SPARE_S

    def run_once(self) -> None:
        """One pass; what goes wrong is said, and tried again by the next one."""
        self._since = time.monotonic()
        self._idle.clear()
        try:
            with one_pass(self._settings):
                outcome = self._promoter.reconcile()
            self._beat()
        except UnknownModelError:
            self._say("promoter.waits", f"there is no registered model {self._settings.registry.name} yet")
        except RelayError as error:
            self._say("promoter.cannot", str(error))
        except Exception as error:  # noqa: BLE001 - the schedule must go on whatever one pass meets
            self._say("promoter.failed", f"{type(error).__name__}: {error}")
        else:
            self._report(outcome)
        finally:
            self._since = time.monotonic()
            self._idle.set()

    def _report(self, outcome: Outcome) -> None:
        for alert in outcome.alerts:
            if alert not in self._said:
                events.logger().warning("promoter.alert", what=alert)
        said = (outcome.resting, *outcome.alerts)
        if outcome.done or said != self._said:
            events.logger().info("promoter.rests", because=outcome.resting)
        self._said = said

    def _say(self, event: str, because: str) -> None:
        if self._said != (event, because):
            events.logger().warning(event, because=because)
        self._said = (event, because)

    def _beat(self) -> None:
        """Tell the registry that a promoter is alive, and notice another one."""
        if time.monotonic() - self._beaten_at < HEARTBEAT_S and self._beaten_at:
            return
        hands, now = self._promoter.hands, datetime.now(UTC)
        other = other_promoter(hands.registry.model_tags(hands.name).get(contract.TAG_PROMOTER), now=now)
        if other is not None:
            events.logger().warning("promoter.second", other=other)
        beat = json.dumps({"who": this_person(), "pid": os.getpid(), "seen": now.isoformat(timespec="seconds")})
        hands.registry.set_model_tag(hands.name, contract.TAG_PROMOTER, beat)
        self._beaten_at = time.monotonic()


def other_promoter(beat: str | None, *, now: datetime) -> str | None:
    """Who else promotes this model, by the heartbeat in the registry; None when nobody does."""
    try:
        told = json.loads(beat or "")
        who, pid, seen = str(told["who"]), int(told["pid"]), datetime.fromisoformat(told["seen"])
    except (ValueError, KeyError, TypeError):
        return None
    is_this = (who, pid) == (this_person(), os.getpid())
    return None if is_this or (now - seen).total_seconds() > _HEARTBEAT_OLD_S else f"{who}, process {pid}"


def _scheduler() -> BackgroundScheduler:
    # A pass that is late because the one before it scores something is no news.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    return BackgroundScheduler(
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
