"""Starts and stops engine children; the one thing of `server` that `pipeline` may use.

A child cannot outlive its parent: it exits when its stdin ends, which the kernel sees to however the parent went.
`start_new_session` keeps a Ctrl-C in the terminal from reaching engines before the gateway has drained them.
Source: `docs/adr/` on the protocol of launcher and engine; the traps are those of vLLM, Ollama and llama-swap.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import psutil

from registry_hooks.errors import EngineStartError
from server.engine_spec import EngineEvent, EngineReady, EngineSpec

# The engine needs neither registry nor store: what could unlock them is not handed down.
_WITHHELD = ("AWS_", "MLFLOW_", "RELAY_", "PYTHONWARNINGS")
_SOCKET_DIR_PREFIX = "relay-"
_LOG_TAIL_BYTES = 2000


def engine_command() -> list[str]:
    """The command of an engine that waits for its spec. `-P` keeps a folder named `server` of the user's out of it."""
    return [sys.executable, "-P", "-m", "server.engine", "--supervised"]


def socket_dir() -> Path:
    """A private folder (0700) for the sockets of this process; those of processes that are gone are removed.

    Its path is short: a Unix socket's may have 107 bytes.
    """
    base = Path(tempfile.gettempdir())
    for old in base.glob(f"{_SOCKET_DIR_PREFIX}[0-9]*-*"):
        owner = old.name.removeprefix(_SOCKET_DIR_PREFIX).partition("-")[0]
        if (
            owner.isdecimal()
            and not psutil.pid_exists(int(owner))
            and old.is_dir()
            and old.stat().st_uid == os.getuid()
        ):
            for leftover in old.iterdir():
                leftover.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                old.rmdir()
    return Path(tempfile.mkdtemp(prefix=f"{_SOCKET_DIR_PREFIX}{os.getpid()}-"))


class EngineChild:
    """An engine process: a spare until it is given its spec."""

    def __init__(self, log_path: Path, *, stop_grace_s: float, command: list[str] | None = None) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = log_path
        self._stop_grace_s = stop_grace_s
        self._events: queue.Queue[EngineEvent | None] = queue.Queue()
        self._dead = threading.Event()
        self._on_exit: Callable[[], None] | None = None
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_WITHHELD)}
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command or engine_command(),
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
        return not self._dead.is_set() and self._process.poll() is None

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
        code = self._process.poll()
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

    def _signal(self, number: signal.Signals) -> None:
        if self._dead.is_set():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._stdout:
                with contextlib.suppress(ValueError, TypeError):
                    self._events.put(EngineEvent.from_line(line))
        self._process.wait()
        self._dead.set()
        self._events.put(None)
        if self._on_exit is not None:
            self._on_exit()


class Engine:
    """A ready engine.

    Attributes:
        ready: What it said of itself.
        seconds: Per stage of its start: `import` (0 for a warm spare), `load`, `listen`.
    """

    def __init__(self, child: EngineChild, spec: EngineSpec, ready: EngineReady, seconds: dict[str, float]) -> None:
        self.spec = spec
        self.ready = ready
        self.seconds = seconds
        self._child = child

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log_path(self) -> Path:
        return self._child.log_path

    def is_alive(self) -> bool:
        return self._child.is_alive()

    def when_dead(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from another thread, when the process has ended."""
        self._child.when_dead(callback)

    def last_words(self) -> str:
        return self._child.last_words()

    def stop(self) -> None:
        """End the process; its memory is free when this returns."""
        self._child.stop()
        Path(self.spec.uds).unlink(missing_ok=True)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_engine(
    spec: EngineSpec,
    *,
    log_path: Path,
    start_timeout_s: float,
    stop_grace_s: float = 5.0,
    spare: EngineChild | None = None,
) -> Engine:
    """Start an engine and wait until it answers.

    Args:
        log_path: Where a new process logs; a spare has a log already.
        spare: A process that waits for its spec; a dead one is passed over.

    Raises:
        EngineStartError: It did not become ready; nothing of it is left running.
    """
    child = spare if spare is not None and spare.is_alive() else EngineChild(log_path, stop_grace_s=stop_grace_s)
    try:
        child.send(spec)
        ready, seconds = _await_ready(child, time.monotonic() + start_timeout_s, start_timeout_s)
    except BaseException:
        child.stop()
        Path(spec.uds).unlink(missing_ok=True)
        raise
    return Engine(child, spec, ready, seconds)


def _await_ready(child: EngineChild, deadline: float, timeout_s: float) -> tuple[EngineReady, dict[str, float]]:
    stages = {"imported": "import", "loaded": "load", "ready": "listen"}
    seconds = dict.fromkeys(stages.values(), 0.0)
    stage, since = "import", time.monotonic()
    while True:
        try:
            event = child.next_event(deadline - time.monotonic())
        except queue.Empty:
            raise EngineStartError(
                f"the engine was not ready after {timeout_s:g} s (stage {stage}) and was stopped; "
                f"see {child.log_path}, or raise engine.start_timeout_s",
                stage="timeout",
                transient=True,
            ) from None
        if event is None:
            raise EngineStartError(
                f"the engine process ended at stage {stage}{child.last_words()}",
                stage=stage,
                transient=stage == "import",
            )
        if event.event == "failed":
            raise EngineStartError(f"the engine refused the checkpoint: {event.reason}", stage=event.stage)
        now = time.monotonic()
        if event.event in stages:
            seconds[stages[event.event]], since = now - since, now
            stage = {"imported": "load", "loaded": "listen"}.get(event.event, stage)
        if event.event == "ready" and event.ready is not None:
            return event.ready, seconds
