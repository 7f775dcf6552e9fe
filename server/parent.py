"""A child's view of the process that started it, by the protocol of `server/engine_spec.py`. Standard library only."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

from server.engine_spec import EngineEvent, EngineSpec

_MAX_SPEC_BYTES = 64 * 1024
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def _end_at_once() -> None:
    os._exit(1)


class Parent:
    """The process that started this one. When it ends, so does this one, at once and at any time.

    Takes stdin and stdout away from everybody else: prints go to stderr, and no grandchild can hold the pipes.

    Args:
        when_gone: Ends this process; called from a thread of its own.
    """

    def __init__(self, when_gone: Callable[[], None] = _end_at_once) -> None:
        self._commands_fd, self._events_fd = os.dup(_STDIN), os.dup(_STDOUT)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), _STDIN)
        os.dup2(_STDERR, _STDOUT)
        self._when_gone = when_gone
        self._specs: queue.Queue[tuple[bytes, float]] = queue.Queue(maxsize=1)
        threading.Thread(target=self._watch, name="parent-watch", daemon=True).start()

    def tell(self, event: EngineEvent) -> None:
        """Send one event. A parent that no longer listens is as good as gone."""
        try:
            os.write(self._events_fd, event.to_line())
        except OSError:
            self._when_gone()

    def wait_for_spec(self) -> tuple[EngineSpec, float]:
        """What to be, and when that arrived on `time.monotonic()`. Waits for ever: a spare may be needed tomorrow.

        Raises:
            ValueError: A line that is no spec.
        """
        line, since = self._specs.get()
        try:
            return EngineSpec.from_line(line), since
        except (TypeError, ValueError) as error:
            raise ValueError(f"the line on stdin is no engine spec: {error}") from error

    def _watch(self) -> None:
        line, told = b"", False
        try:
            while chunk := os.read(self._commands_fd, _MAX_SPEC_BYTES):
                line = b"" if told else line + chunk
                if not told and b"\n" in line:
                    told = True
                    self._specs.put((line.partition(b"\n")[0], time.monotonic()))
                if len(line) > _MAX_SPEC_BYTES:
                    break
        finally:
            self._when_gone()
