"""What the schedule of the promoter calls: one pass, and the word in the registry that it lives."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipeline.promotion import heartbeat, second_chances
from pipeline.promotion.heartbeat import Heartbeat
from pipeline.promotion.moves import this_person
from pipeline.promotion.pulse import Pulse
from pipeline.promotion.reconciling import Outcome, Promoter
from registry_hooks import contract, events
from registry_hooks.errors import RelayError, UnknownModelError
from registry_hooks.settings import Settings

_SPARE_S = 60.0


class Passes:
    """Passes and heartbeats of one promoter. Says in the log only what is new.

    Args:
        lock: Held during each pass.
        pulse: Is told of every pass and, by whoever scores, of every version that is scored.
    """

    def __init__(
        self,
        promoter: Promoter,
        settings: Settings,
        *,
        lock: Callable[[], AbstractContextManager[None]],
        pulse: Pulse | None = None,
    ) -> None:
        self._promoter = promoter
        self._settings = settings
        self._lock = lock
        self._pulse = pulse or Pulse()
        self._said: tuple[str, ...] = ()
        self._idle = threading.Event()
        self._idle.set()
        self._writing = threading.Lock()
        self._written_at = 0.0
        self._told = Heartbeat(who=this_person(), pid=os.getpid(), seen=None, state=heartbeat.RESTS, since=_now())

    @property
    def is_busy(self) -> bool:
        """Whether a pass is under way."""
        return not self._idle.is_set()

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for the end of the pass that is under way; whether there was one in time, or none."""
        return self._idle.wait(timeout_s)

    def is_stuck(self) -> bool:
        """Whether a pass gets on no more, or none has come although one should have.

        The schedule's own word for it does not count: it says that it runs also when its thread has ended.
        """
        settings = self._settings
        # The longest that may go by without a sign: to fetch, start and score one version.
        one_version_s = settings.serve.fetch_timeout_s + settings.engine.start_timeout_s + settings.evaluate.deadline_s
        allowed_s = one_version_s if self.is_busy else 10 * settings.promoter.interval_s
        return self._pulse.silent_s > allowed_s + _SPARE_S

    def run_once(self) -> None:
        """One pass; what goes wrong is said, and tried again by the next one."""
        before = self._told
        self._pulse.beat()
        self._idle.clear()
        self._told = replace(before, state=heartbeat.WORKS, since=_now(), because="", alerts=())
        self.beat()
        try:
            with self._lock():
                self._end_of_pass(before, self._promoter.reconcile())
        except UnknownModelError as error:
            if error.what == "model":
                self._fail(before, "promoter.waits", f"there is no registered model {self._settings.registry.name} yet")
            else:
                self._fail(before, "promoter.cannot", str(error))
        except RelayError as error:
            self._fail(before, "promoter.cannot", str(error))
        except Exception as error:  # noqa: BLE001 - the schedule must go on whatever one pass meets
            self._fail(before, "promoter.failed", f"{type(error).__name__}: {error}")
        finally:
            self._pulse.beat()
            self._idle.set()

    def beat(self, *, at_once: bool = False) -> None:
        """Tell the registry that a promoter lives, and what it does; notice another one, and servers that are gone.

        At most every 30 seconds, unless there is news. A registry that is away is no reason to stop.
        """
        with self._writing:
            if not at_once and self._written_at and time.monotonic() - self._written_at < heartbeat.HEARTBEAT_S:
                return
            try:
                self._write_beat()
            except RelayError:
                pass  # the registry is away, or has no such model: the pass says so
            except Exception as error:  # noqa: BLE001 - what is said of a pass must never be in its way
                events.logger().warning("promoter.not_heard", because=f"{type(error).__name__}: {error}")

    def say_goodbye(self) -> None:
        """Tell the registry that this promoter was stopped, so that its silence is no alert."""
        self._told = replace(self._told, state=heartbeat.STOPPED, since=_now(), because="it was told to stop")
        self.beat(at_once=True)

    def _write_beat(self) -> None:
        hands, now = self._promoter.hands, _now()
        tag = hands.registry.model_tags(hands.name).get(contract.TAG_PROMOTER)
        other = heartbeat.other_promoter(tag, who=self._told.who, pid=self._told.pid, now=now)
        if other is not None:
            events.logger().warning("promoter.second", other=other)
        hands.registry.set_model_tag(hands.name, contract.TAG_PROMOTER, heartbeat.write(replace(self._told, seen=now)))
        self._written_at = time.monotonic()
        after = timedelta(days=self._settings.promoter.forget_servers_after_days)
        for server in second_chances.forget_gone(hands, after=after, now=now):
            events.logger().warning("server.forgotten", server=server)

    def _end_of_pass(self, before: Heartbeat, outcome: Outcome) -> None:
        for alert in outcome.alerts:
            if alert not in self._said:
                events.logger().warning("promoter.alert", what=alert)
        said = (outcome.resting, *outcome.alerts)
        if outcome.done or said != self._said:
            events.logger().info("promoter.rests", because=outcome.resting)
        self._said = said
        self._tell(before, heartbeat.RESTS, outcome.resting, tuple(outcome.alerts))

    def _fail(self, before: Heartbeat, event: str, because: str) -> None:
        if self._said != (event, because):
            events.logger().warning(event, because=because)
        self._said = (event, because)
        self._tell(before, heartbeat.CANNOT, because, ())

    def _tell(self, before: Heartbeat, state: str, because: str, alerts: tuple[str, ...]) -> None:
        """Say how the pass ended: at once when that is new, and since when otherwise."""
        is_old = (before.state, before.because, tuple(before.alerts)) == (state, because, alerts)
        since = before.since if is_old else _now()
        self._told = replace(before, state=state, since=since, because=because, alerts=alerts)
        self.beat(at_once=not is_old)


def _now() -> datetime:
    return datetime.now(UTC)
