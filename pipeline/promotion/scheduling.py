"""`relay promoter`: passes on a schedule, until it is told to stop.

APScheduler 3.11 goes wrong silently in four ways (measured): its default grace of a second skips passes that were late,
a hung job blocks all later ones, a job store's error ends its thread while it says that it runs, and two processes on
one store run everything twice. So: jobs in memory, no grace, one at a time, a lock, and a watchdog that ends a process
that does nothing any more.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from pipeline.promotion import machine_lock
from pipeline.promotion.heartbeat import HEARTBEAT_S
from pipeline.promotion.passes import Passes
from pipeline.promotion.pulse import Pulse
from pipeline.promotion.reconciling import Promoter
from pipeline.promotion.wiring import promoter_of
from registry_hooks import events
from registry_hooks.errors import RelayError, UserError
from registry_hooks.settings import Settings

_WATCH_S = 1.0
_STUCK_EXIT_CODE = 70
# How long a pass may go on after the promoter was told to stop: most only read.
_END_S = 3.0


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the lock of the one promoter that runs on for this model on this machine, whoever started it.

    Raises:
        UserError: Another one runs.
    """
    release = machine_lock.try_lock(machine_lock.name_of("promoter", settings))
    if release is None:
        raise UserError(
            f"another promoter of {settings.registry.name} runs on this machine, so this one did nothing: stop it "
            "first, or leave the work to it"
        )
    try:
        yield
    finally:
        release()


@contextmanager
def one_pass(settings: Settings, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of passes, so that a pass by hand and the promoter's own take turns; waits for it.

    Args:
        on_wait: Called when somebody else has it.
    """
    with machine_lock.waited_for(machine_lock.name_of("pass", settings), on_wait=on_wait):
        yield


def run(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Pass after pass until SIGINT or SIGTERM; the exit code.

    Raises:
        UserError: A policy or test set that cannot be used, or another promoter on this machine.
    """
    stop, pulse = threading.Event(), Pulse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with only_one(settings), promoter_of(settings, on_progress=pulse.beat) as (promoter, lines):
        for line in (*lines, *_warnings(promoter)):
            say(line)
        passes = Passes(promoter, settings, lock=lambda: one_pass(settings), pulse=pulse)
        scheduler = _scheduler()
        _schedule(scheduler, passes, settings)
        scheduler.start()
        events.logger().info("promoter.started", model=settings.registry.name, interval_s=settings.promoter.interval_s)
        _watch(passes, pulse, stop)
        scheduler.shutdown(wait=False)
        has_ended = passes.ends_within(_END_S)
        passes.say_goodbye()
        if not has_ended:
            # A pass may score for an hour. Its engine ends with this process, and the registry says where it was.
            events.logger().info("promoter.stopped", in_the_middle_of_a_pass=True)
            os._exit(0)
    events.logger().info("promoter.stopped")
    return 0


def _watch(passes: Passes, pulse: Pulse, stop: threading.Event) -> None:
    """Wait until somebody says stop; end a process that gets on no more."""
    before = time.monotonic()
    while not stop.wait(_WATCH_S):
        now = time.monotonic()
        pulse.tick(now - before)
        before = now
        if passes.is_stuck():
            events.logger().error("promoter.stuck", is_in_a_pass=passes.is_busy)
            os._exit(_STUCK_EXIT_CODE)  # whoever supervises starts a new one; the registry says where it was


def _schedule(scheduler: BackgroundScheduler, passes: Passes, settings: Settings) -> None:
    interval_s = settings.promoter.interval_s
    first = datetime.now(UTC)
    scheduler.add_job(
        passes.run_once, "interval", seconds=interval_s, jitter=interval_s / 10, next_run_time=first, id="reconcile"
    )
    # Beside the passes, which may take hours: a promoter that scores lives as well.
    scheduler.add_job(passes.beat, "interval", seconds=HEARTBEAT_S, id="beat", executor="beat")


def _warnings(promoter: Promoter) -> list[str]:
    """What to say of a rule that is not that of the last decision. A registry that is away does not stop the start."""
    try:
        found = promoter.difference()
    except RelayError as error:
        return [f"Warning: by what rule the last decision was made cannot be told: {error}"]
    return [f"Warning: {found.sentence}"] if found is not None else []


def _scheduler() -> BackgroundScheduler:
    # A pass that is late because the one before it scores something is no news.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    return BackgroundScheduler(
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(1), "beat": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
