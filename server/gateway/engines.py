"""The engine processes of this gateway: starting (with a warm spare) and stopping. One thread owns starts."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from registry_hooks import events
from registry_hooks.errors import StartCancelledError
from registry_hooks.settings import Settings
from server.engine_child import EngineChild
from server.gateway import engine_logs
from server.gateway.engine_logs import EngineLogs
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.gateway.spare import Spare
from server.launcher import Engine, spec_of, start_engine
from server.socket_folder import socket_dir


class EngineRoom:
    """Starts and stops the engines of one gateway."""

    def __init__(self, settings: Settings, log_dir: Path) -> None:
        self._settings = settings
        self._logs = EngineLogs(log_dir)
        self._sockets = socket_dir()
        self._numbers = itertools.count(1)
        self._spare = Spare(self._new_child)
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
        if not self._sockets.is_dir():  # somebody tidied up temporary files
            self._sockets = socket_dir()
        spec = spec_of(
            engine,
            checkpoint_dir=checkpoint.directory,
            uds=str(self._sockets / f"e{next(self._numbers)}.sock"),
            model_name=checkpoint.version.name,
        )
        spec = replace(spec, fingerprint=checkpoint.fingerprint, command=engine.command)
        with self._lock:
            log_path, spare = self._new_log(), self._spare.take()
        started = start_engine(
            spec,
            log_path=log_path,
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
            if not self._closed:
                self._spare.keep(now_s=time.monotonic())

    def bound_logs(self) -> None:
        """Empty the logs that have grown too large; to be called now and then."""
        for path in self._logs_in_use():
            engine_logs.bound(path)

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
            spare = self._spare.take()
            started = tuple(self._started)
        for process in (*started, spare):
            if process is not None:
                process.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _new_child(self) -> EngineChild:
        return EngineChild(self._new_log(), stop_grace_s=self._settings.engine.stop_grace_s)

    def _new_log(self) -> Path:
        return self._logs.new(self._logs_in_use())

    def _logs_in_use(self) -> set[Path]:
        live = [one for one in (*self._started, self._spare.child) if one is not None and one.is_alive()]
        return {one.log_path for one in live}
