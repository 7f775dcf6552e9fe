"""Locks between processes on one machine, on files that exist; a process that dies lets go of them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A short section takes seconds; whoever waits must not hang with another that hangs in one.
LONGEST_S = 60.0
_POLL_S = 0.01


@contextmanager
def exclusive(path: Path, *, timeout_s: float = LONGEST_S) -> Iterator[None]:
    """Hold the lock; wait for it first. For short sections: others wait as long as the body takes.

    Raises:
        TimeoutError: Somebody else held it all the time; a process that was stopped keeps it.
    """
    deadline = time.monotonic() + timeout_s
    while (lock := try_exclusive(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process has held the lock {path} for {timeout_s:g} s: does it hang?")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(lock)


def try_exclusive(path: Path) -> int | None:
    """An open descriptor that holds the lock until it is closed; None when somebody has it, or shares it."""
    return _try(path, fcntl.LOCK_EX)


def try_shared(path: Path) -> int | None:
    """As `try_exclusive`, for a lock that many may share."""
    return _try(path, fcntl.LOCK_SH)


def _try(path: Path, kind: int) -> int | None:
    fd = _open(path)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
