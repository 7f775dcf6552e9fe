"""Locks between processes on one machine, on files that exist; a process that dies lets go of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock; wait for it first. For short sections: others wait as long as the body takes."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


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
