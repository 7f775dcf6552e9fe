"""How long each stage of publishing takes, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from registry_hooks.ports import Progress


class PublishProgress(Protocol):
    """Is told how far publishing is, from any thread."""

    def begin(self, stage: str, total_bytes: int) -> None:
        """A stage begins; 0 bytes when it has no size."""

    def advance(self, stage: str, num_bytes: int) -> None:
        """So many more bytes of a stage are done."""

    def end(self, stage: str, seconds: float) -> None:
        """A stage is over, well or not."""


class Stopwatch:
    """Times stages, which may run at the same time; one that comes twice adds up."""

    def __init__(self, progress: PublishProgress) -> None:
        self._progress = progress
        self._start = time.monotonic()
        self.seconds: dict[str, float] = {}

    @property
    def total_s(self) -> float:
        """Seconds since the watch was made."""
        return time.monotonic() - self._start

    @contextmanager
    def stage(self, name: str, total_bytes: int = 0) -> Iterator[Progress]:
        """Time what happens inside; yields what wants to be told of bytes."""
        started = time.monotonic()
        self._progress.begin(name, total_bytes)
        try:
            yield lambda num_bytes: self._progress.advance(name, num_bytes)
        finally:
            took = time.monotonic() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            self._progress.end(name, took)
