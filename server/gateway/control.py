"""The control loop: looks at the alias, decides by `watching`, acts. One thread owns every start and every flip."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from registry_hooks import events
from registry_hooks.errors import FetchCancelledError, RegistryUnavailableError, RelayError, StartCancelledError
from registry_hooks.settings import Settings
from server.gateway import watching
from server.gateway.blaming import Refusal, refuse
from server.gateway.journal import Journal, WatchStatus, said
from server.gateway.lineup import LineUp, Slot, identity
from server.gateway.reloading import Loader, Reload
from server.gateway.room import Plan
from server.gateway.watching import Action, Actual, BootFromCache, FlipToWarm, Keep, Load, Restart, Sighting

MAX_REMEMBERED = 1000
DEATHS_FORGOTTEN_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a turn of the loop would do, for a dry run; `plan` says how a version would be started."""

    seen: Sighting
    action: Action
    plan: Plan | None


class Watcher(threading.Thread):
    """Follows the alias until it is stopped."""

    def __init__(self, settings: Settings, loader: Loader, journal: Journal) -> None:
        super().__init__(name="watcher", daemon=True)
        self._settings = settings
        self._loader = loader
        self._lineup: LineUp = loader.lineup
        self._journal = journal
        self._refusals: dict[watching.Key, Refusal] = {}
        self._tickets: deque[Future[WatchStatus]] = deque(maxlen=MAX_REMEMBERED)
        self._deaths: deque[float] = deque(maxlen=32)
        self._restart_at_s: float | None = None
        self._cache_refusal: Refusal | None = None
        self._num_failures = 0
        self._seen = Sighting(version=None, answered=False, trouble="the registry has not been asked yet")
        self._seen_at = 0.0
        self._looking = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def look_now(self, *, retry_refused: bool = False) -> Future[WatchStatus]:
        """Ask for a turn at once; the future holds the status after it.

        Args:
            retry_refused: Forget all refusals first: a person says that it should be tried again.
        """
        ticket: Future[WatchStatus] = Future()
        if retry_refused:
            self._refusals.clear()
            self._cache_refusal = None
        self._tickets.append(ticket)
        self._wake.set()
        return ticket

    def preview(self) -> Preview:
        """What a turn would do now, and how it would be started; changes nothing."""
        seen = self._ask()
        action = watching.next_action(seen, self._actual(), dict(self._refusals), now_s=time.monotonic())
        plan = self._loader.plan(action.version) if isinstance(action, Load) else None
        return Preview(seen=seen, action=action, plan=plan)

    def run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            tickets = [self._tickets.popleft() for _ in range(len(self._tickets))]
            try:
                self.turn()
                self._loader.let_go()
            except Exception as error:  # noqa: BLE001 - the loop must outlive whatever one turn meets
                events.logger().exception("turn.failed", because=repr(error))
                self._journal.note(f"internal error, see the log: {error!r}")
            for ticket in tickets:
                if ticket.set_running_or_notify_cancel():
                    ticket.set_result(self._journal.status)
            delay_s = watching.poll_delay_s(self._settings.serve.poll_s, self._num_failures)
            self._wake.wait(delay_s * random.uniform(0.9, 1.1))  # noqa: S311 - jitter

    def stop(self) -> None:
        """End the loop after the current step; what is being brought up is given up."""
        self._stopping.set()
        self._wake.set()

    def turn(self) -> None:
        """One turn: look, decide, act. Who waits for a first restart does not wait for a look."""
        self._bury_previous()
        current = self._lineup.current
        if current is None or current.is_alive() or self._restart_at_s is not None:
            self._look()
        now = datetime.now(UTC)
        action = self._next_action()
        match action:
            case Keep():
                self._journal.note(action.because + self._cache_trouble())
                self._loader.engines.bound_logs()
                if self._lineup.current is not None:
                    self._loader.engines.keep_spare()
            case Load():
                self._bring_up(Reload(version=action.version, started_at=now), action.because)
            case FlipToWarm():
                self._flip_to_warm(Reload(version=action.version, started_at=now))
            case Restart():
                self._restart()
            case BootFromCache():
                self._boot_from_cache(action.because)

    def _next_action(self) -> Action:
        return watching.next_action(self._seen, self._actual(), self._refusals, now_s=time.monotonic())

    def _ask(self) -> Sighting:
        registry = self._settings.registry
        try:
            version = self._loader.source.resolve_alias(registry.name, registry.alias)
        except RelayError as error:
            return Sighting(version=None, answered=not isinstance(error, RegistryUnavailableError), trouble=str(error))
        trouble = (
            "" if version else f"model {registry.name} has no alias {registry.alias}; nothing is unloaded for that"
        )
        return Sighting(version=version, trouble=trouble)

    def _look(self) -> None:
        self._seen, self._seen_at = self._ask(), time.monotonic()
        self._num_failures = 0 if self._seen.answered else self._num_failures + 1
        self._journal.saw(self._seen)

    def _superseded(self, reload: Reload, *, look: bool = False) -> bool:
        """Whether the version that is being brought up is no longer wanted.

        Asked from many threads: one looks, and the others go by what is known, so that a registry that hangs holds up
        one of them and no more.

        Args:
            look: Ask the registry now; else as often as ever. One that does not answer has not moved on.
        """
        if self._stopping.is_set():
            return True
        delay_s = watching.poll_delay_s(self._settings.serve.poll_s, self._num_failures)
        is_due = look or time.monotonic() - self._seen_at >= delay_s
        if is_due and self._looking.acquire(blocking=look):
            try:
                self._look()
            finally:
                self._looking.release()
        wanted = self._seen.version
        return self._seen.answered and (wanted is None or identity(wanted) != identity(reload.version))

    def _actual(self) -> Actual:
        current, previous = self._lineup.current, self._lineup.previous
        return Actual(
            current=current.checkpoint.key if current else None,
            alive=current is None or current.is_alive(),
            restart_at_s=self._restart_at_s,
            warm=previous.checkpoint.key if previous and previous.is_alive() else None,
            last_good=current is None and self._may_try_cache() and self._loader.last_good() is not None,
        )

    def _bring_up(self, reload: Reload, because: str) -> None:
        self._journal.begin(reload, because)
        look_after = partial(self._look_after_what_is_served, reload, because)
        try:
            slot = self._loader.bring_up(reload, partial(self._superseded, reload), meanwhile=look_after)
        except (FetchCancelledError, StartCancelledError) as error:
            self._journal.end(reload, "superseded", str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a try that failed, and is told as one
            self._refuse(reload, error)
        else:
            self._serve_if_wanted(slot, reload)

    def _look_after_what_is_served(self, reload: Reload, because: str) -> None:
        """Restart the engine in service if it dies while another version is fetched: nobody waits for that."""
        if isinstance(self._next_action(), Restart) and not self._stopping.is_set():
            self._restart()
            self._journal.goes_on(reload, because)

    def _serve_if_wanted(self, slot: Slot, reload: Reload) -> None:
        """Look once more, however long ago the last look was: a person may have moved the alias back meanwhile."""
        if self._superseded(reload, look=True):
            slot.engine.stop()
            because = f"the alias moved on while {reload.version.label} was started and checked; it was stopped again"
            self._journal.end(reload, "superseded", because)
        else:
            self._serve(slot, reload)

    def _serve(self, slot: Slot, reload: Reload) -> None:
        with reload.watch("flip"):
            leaving = self._lineup.flip(slot)
        self._restart_at_s = None
        slot.engine.when_dead(self._wake.set)
        self._refusals.pop(slot.checkpoint.key, None)
        self._journal.end(reload, "served", f"serving {reload.version.label}: {reload.verdict}", slot)
        if not self._settings.serve.keep_previous and (previous := self._lineup.drop_previous()) is not None:
            leaving += (previous,)
        self._retire(*leaving)
        try:
            self._loader.remember(slot)
        except Exception as error:  # noqa: BLE001 - it is served; a disk that is full hurts the next start at most
            events.logger().warning("last_good.not_kept", because=said(error))
        self._loader.engines.keep_spare()

    def _retire(self, *slots: Slot) -> None:
        for slot in slots:
            self._loader.engines.retire(slot, self._lineup)

    def _bury_previous(self) -> None:
        """A warm engine that died is no longer one."""
        dead = self._lineup.drop_previous(only_dead=True)
        if dead is not None:
            events.logger().error("engine.died", version=dead.checkpoint.version.version, how=dead.engine.last_words())
            self._retire(dead)

    def _flip_to_warm(self, reload: Reload) -> None:
        slot = self._lineup.previous
        if slot is not None and slot.is_alive():
            reload.verdict = "it was still warm, and was checked when it was started"
            self._serve(slot, reload)

    def _restart(self) -> None:
        dead = self._lineup.current
        if dead is None:
            return
        now = time.monotonic()
        self._deaths.append(now)
        num_recent = sum(1 for at in self._deaths if now - at < DEATHS_FORGOTTEN_S)
        events.logger().error("engine.died", version=dead.checkpoint.version.version, how=dead.engine.last_words())
        reload = Reload(version=dead.checkpoint.version, started_at=datetime.now(UTC), tries=num_recent)
        try:
            slot = self._loader.start_again(dead.checkpoint, reload, self._stopping.is_set)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next try waits
            self._restart_at_s = self._next_restart_at_s(num_recent)
            self._journal.end(
                reload, self._unless_going("failed"), f"the engine died and could not be restarted: {said(error)}"
            )
            return
        self._restart_at_s = self._next_restart_at_s(num_recent) if num_recent > 1 else None
        self._retire(*self._lineup.replace_dead(slot))
        slot.engine.when_dead(self._wake.set)
        self._journal.end(reload, "served", f"restarted after the engine died; {reload.verdict}", slot)

    def _next_restart_at_s(self, num_recent: int) -> float:
        """An engine that dies again and again is restarted later each time."""
        return time.monotonic() + watching.restart_delay_s(num_recent + 1)

    def _cache_trouble(self) -> str:
        refusal = self._cache_refusal if self._lineup.current is None else None
        return f"; {refusal.because}" if refusal is not None else ""

    def _may_try_cache(self) -> bool:
        return self._cache_refusal is None or not self._cache_refusal.holds(time.monotonic())

    def _boot_from_cache(self, because: str) -> None:
        last_good = self._loader.last_good()
        if last_good is None:
            return
        reload = Reload(version=last_good.version, started_at=datetime.now(UTC))
        try:
            slot = self._loader.start_cached(last_good, reload, self._stopping.is_set)
        except Exception as error:  # noqa: BLE001 - whatever it is, the registry is followed without it
            because = f"the last good version in the cache does not start: {said(error)}"
            refusal = refuse(error, because, self._cache_refusal, now_s=time.monotonic())
            self._cache_refusal, reload.tries = refusal, refusal.tries
            self._journal.end(reload, self._unless_going("failed"), because)
            return
        reload.verdict = f"from the cache, since {because}; {reload.verdict}"
        self._serve(slot, reload)

    def _refuse(self, reload: Reload, error: Exception) -> None:
        key = identity(reload.version)
        because = f"{reload.version.label} is not served (stage {reload.watch.stage}): {said(error)}"
        refusal = refuse(error, because, self._refusals.pop(key, None), now_s=time.monotonic())
        self._refusals[key], reload.tries = refusal, refusal.tries
        while len(self._refusals) > MAX_REMEMBERED:
            del self._refusals[next(iter(self._refusals))]
        self._journal.end(reload, self._unless_going(refusal.outcome), because)

    def _unless_going(self, outcome: str) -> str:
        """What came of a try; one that this server ended itself, since it is going, says nothing of anybody."""
        return "superseded" if self._stopping.is_set() else outcome
