"""One child program under a guard: started with a log file, watched, and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.stack import guard
from registry_hooks.errors import StackError, UserError

MAX_LOG_BYTES = 5_000_000
_TAIL_BYTES = 2000
_POLL_S = 0.1
# What a person set for their own Python, and would break a program that is not theirs.
_NOT_INHERITED = ("PYTHONWARNINGS", "PYTHONSTARTUP", "PYTEST_CURRENT_TEST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    Attributes:
        name: Names the log file and the messages.
        env: Added to this process's environment.
        grace_s: From SIGTERM to SIGKILL.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    grace_s: float = 10.0


class Child:
    """A running program. It ends with this process, also when that is killed."""

    def __init__(self, program: Program, log: Path) -> None:
        """Start it.

        Raises:
            UserError: The program cannot be started.
        """
        self.name, self.log = program.name, log
        self._program, self._grace_s = program, program.grace_s
        self.start()

    def start(self) -> None:
        """Start it, or start it again when it has ended.

        Raises:
            UserError: The program cannot be started.
        """
        program, log = self._program, self.log
        log.parent.mkdir(parents=True, exist_ok=True)
        _rotate(log)
        inherited = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        # -I: the guard needs nothing of ours, starts faster, and no setting of the user's Python reaches it.
        command = [sys.executable, "-I", guard.__file__, str(program.grace_s), *program.command]
        with log.open("ab") as output:
            try:
                self._guard = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    cwd=program.cwd,
                    env={**inherited, **program.env},
                    start_new_session=True,  # Ctrl-C reaches us alone: we stop the programs, in order
                )
            except OSError as error:
                raise UserError(f"{program.name} could not be started: {error}") from error

    @property
    def pid(self) -> int:
        """Of the guard."""
        return self._guard.pid

    @property
    def alive(self) -> bool:
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the program, once it has ended."""
        return self._guard.poll()

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until `ready()`; it is asked about ten times a second.

        Raises:
            StackError: The program ended, or the time did; it is stopped then.
        """
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:
            if ready():
                return
            time.sleep(_POLL_S)
        how = f"was not ready after {timeout_s:g} s" if self.alive else f"ended with code {self._guard.returncode}"
        self.stop()
        raise StackError(f"{self.name} {how} and was stopped; its log {self.log} ends with:\n{self.log_tail()}")

    def stop(self) -> None:
        """SIGTERM, a grace, SIGKILL, for the program and all that it started; returns when it is gone."""
        if self.alive:
            self._guard.terminate()
            try:
                self._guard.wait(self._grace_s + 5)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        if self._guard.stdin:
            self._guard.stdin.close()

    def log_tail(self) -> str:
        """The last lines that the program wrote."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
