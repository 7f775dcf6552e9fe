"""One engine process, seen from the process that started it; the protocol is in `server/engine_spec.py`."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, cast

from registry_hooks import events
from registry_hooks.errors import EngineStartError
from server.engine_spec import EngineEvent, EngineSpec

# `-P` keeps a folder named `server` of the user's out of them.
ENGINE = (sys.executable, "-P", "-m", "server.engine", "--supervised")
SUBSTITUTE = (sys.executable, "-P", "-m", "server.substitute")
# The engine needs neither registry nor store: what could unlock them is not handed down.
_WITHHELD = ("AWS_", "MLFLOW_", "RELAY_", "PYTHONWARNINGS")
_LOG_TAIL_BYTES = 2000
# Its pipe breaks a moment before its end is seen.
_SEEN_DEAD_S = 0.5


class EngineChild:
    """An engine process: a spare until it is given its spec.

    One thread reads its events, sees it end and waits for it; nobody else does. A process that has been waited for is
    out of reach: its number may be another's by then, and so what it started could no longer be ended with it.
    """

    def __init__(self, log_path: Path, *, stop_grace_s: float, command: Sequence[str] = ENGINE) -> None:
        self.log_path = log_path
        self.command = command
        self._stop_grace_s = stop_grace_s
        self._events: queue.Queue[EngineEvent | None] = queue.Queue()
        self._dead = threading.Event()
        self._reaping = threading.Lock()
        self._on_exit: Callable[[], None] | None = None
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_WITHHELD)}
        with _log(log_path) as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                start_new_session=True,
            )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        threading.Thread(target=self._read, name=f"engine-{self.pid}-events", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return not self._dead.is_set()

    def when_dead(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from a thread of ours, when the process has ended; at once if it has."""
        self._on_exit = callback
        if self._dead.is_set():
            callback()

    def wait_dead(self, timeout_s: float) -> bool:
        return self._dead.wait(timeout_s)

    def send(self, spec: EngineSpec) -> None:
        """Make an engine of a spare."""
        try:
            self._stdin.write(spec.to_line())
            self._stdin.flush()
        except OSError as error:
            raise EngineStartError(
                f"the engine process ended before it had a checkpoint{self.last_words()}", stage="import"
            ) from error

    def next_event(self, timeout_s: float) -> EngineEvent | None:
        """The next event; None when the process has ended.

        Raises:
            queue.Empty: Nothing in that time.
        """
        return self._events.get(timeout=max(timeout_s, 0))

    def last_words(self) -> str:
        """How it ended and the end of its log, for an error message."""
        self._dead.wait(_SEEN_DEAD_S)
        code = self._process.returncode
        how = (
            "" if code is None else f" (killed by {signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"
        )
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return (
                f"{how}; log {self.log_path}, last line: {lines[-1]}"
                if lines
                else f"{how}; log {self.log_path} is empty"
            )
        return how

    def stop(self) -> None:
        """End the process and all that it started: SIGTERM to the group, a grace, SIGKILL. Safe to call twice."""
        self._signal(signal.SIGTERM)
        if not self._dead.wait(self._stop_grace_s):
            self._signal(signal.SIGKILL)
            self._dead.wait(10)
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def kill(self) -> None:
        """End the process and all that it started, at once; for one that no longer answers."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._reaping:
            if not self._dead.is_set():
                self._signal_group(number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _wait(self) -> None:
        """Wait for the end of the process, and end what it started while its number is still its own."""
        with contextlib.suppress(ChildProcessError):  # the kernel waits by itself where SIGCHLD is ignored
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            self._signal_group(signal.SIGKILL)
            self._process.wait()
            self._dead.set()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._stdout:
                with contextlib.suppress(ValueError, TypeError):
                    self._events.put(EngineEvent.from_line(line))
        self._wait()
        self._events.put(None)
        if self._on_exit is not None:
            self._on_exit()


def _log(path: Path) -> IO[bytes]:
    """Where an engine writes; nowhere when its log cannot be made: that is no reason not to start it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")  # it may be emptied while the engine writes
    except OSError as error:
        events.logger().warning("engine.not_logged", path=str(path), because=repr(error))
        return open(os.devnull, "wb")
