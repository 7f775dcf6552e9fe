"""The engine processes of this gateway: starting (with a warm spare) and stopping. One thread owns starts."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from registry_hooks import events
from registry_hooks.errors import StartCancelledError
from registry_hooks.settings import Settings
from server.engine_child import EngineChild
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.launcher import Engine, socket_dir, spec_of, start_engine

MAX_LOGS = 20


class EngineRoom:
    """Starts and stops the engines of one gateway."""

    def __init__(self, settings: Settings, log_dir: Path) -> None:
        self._settings = settings
        self._log_dir = log_dir
        self._sockets = socket_dir()
        self._numbers = itertools.count(1)
        self._spare: EngineChild | None = None
        self._started: list[Engine] = []
        self._closed = False
        self._lock = threading.Lock()

    def start(self, checkpoint: Checkpoint, cancelled: Callable[[], bool]) -> Engine:
        """A ready engine of `checkpoint`; its answers are not checked yet.

        Args:
            cancelled: Whether it is no longer wanted, asked all the while.

        Raises:
            EngineStartError: It did not become ready; nothing of it is left.
            StartCancelledError: It is no longer wanted; nothing of it is left.
        """
        engine = self._settings.engine
        spec = spec_of(
            engine,
            checkpoint_dir=checkpoint.directory,
            uds=str(self._sockets / f"e{next(self._numbers)}.sock"),
            model_name=checkpoint.version.name,
        )
        spec = replace(spec, fingerprint=checkpoint.fingerprint, command=engine.command)
        with self._lock:
            spare, self._spare = self._spare, None
        started = start_engine(
            spec,
            log_path=self._new_log(),
            start_timeout_s=engine.start_timeout_s,
            stop_grace_s=engine.stop_grace_s,
            spare=spare,
            cancelled=lambda: self._closed or cancelled(),
        )
        with self._lock:
            self._started = [*(one for one in self._started if one.is_alive()), started]
            if not self._closed:
                return started
        started.stop()
        raise StartCancelledError("an engine that had just started was ended: this server is going")

    def keep_spare(self) -> None:
        """Have a process ready that has imported torch, so that the next start, or restart, is quick."""
        if self._settings.engine.command:  # another program imports what it needs itself
            return
        with self._lock:
            if self._closed or (self._spare is not None and self._spare.is_alive()):
                return
            self._spare = EngineChild(self._new_log(), stop_grace_s=self._settings.engine.stop_grace_s)

    def retire(self, slot: Slot, lineup: LineUp) -> None:
        """Stop an engine that left the line-up, once its requests have ended, in the background.

        Past the drain deadline the rest of its streams end with an error event. At shutdown they have as long as all.
        """
        threading.Thread(target=self.drain_and_stop, args=(slot, lineup), name="retire", daemon=True).start()

    def drain_and_stop(self, slot: Slot, lineup: LineUp) -> None:
        """Stop an engine that left the line-up, once its requests have ended."""
        drained = lineup.wait_drained(slot, self._settings.serve.drain_timeout_s)
        slot.engine.stop()
        lineup.retired(slot)
        version = slot.checkpoint.version.version
        events.logger().info("engine.retired", version=version, drained=drained, cut_streams=slot.in_flight)

    def close(self) -> None:
        """Stop every process that was started here, one that is still starting too; no other can begin any more."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
            started = tuple(self._started)
        for process in (*started, spare):
            if process is not None:
                process.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _new_log(self) -> Path:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        logs = sorted(self._log_dir.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)
        for old in logs[: max(0, len(logs) - MAX_LOGS + 1)]:
            old.unlink(missing_ok=True)
        return self._log_dir / f"engine-{next(self._numbers)}.log"
