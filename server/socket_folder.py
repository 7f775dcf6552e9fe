"""Where engines listen: Unix sockets in a private folder, whose path must be short."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from registry_hooks import file_lock
from registry_hooks.errors import EngineStartError

_PREFIX = "relay-"
# What the kernel takes, its closing zero not counted; macOS takes four fewer.
MAX_SOCKET_PATH_BYTES = 103
# `/relay-PID-` and eight letters, `/` and the longest name that a socket gets.
_BELOW_BASE_BYTES = len("/relay-4194304-abcdefgh/e1000000.sock")

# Whoever has just made one may not have locked it yet.
_NEW_S = 60.0
# An evaluation that fails leaves its folder, for the log in it: the newest few are enough.
_MAX_HELD = 16
_locks: list[int] = []


def socket_dir() -> Path:
    """A private folder (0700) for the sockets of this process; those of processes that are gone are removed.

    It is where temporary files are (TMPDIR), unless that path is too long for a socket: then in XDG_RUNTIME_DIR or
    /tmp.

    Raises:
        EngineStartError: There is no such place.
    """
    for base in _bases():
        if len(os.fsencode(base)) + _BELOW_BASE_BYTES <= MAX_SOCKET_PATH_BYTES:
            _drop_leftovers(base)
            with contextlib.suppress(OSError):  # not ours to write into
                return _held(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base)))
    raise EngineStartError(
        "there is no folder for the sockets of engines, so nothing was started: TMPDIR, XDG_RUNTIME_DIR and /tmp are "
        f"longer than {MAX_SOCKET_PATH_BYTES - _BELOW_BASE_BYTES} bytes or cannot be written; set TMPDIR to another",
        stage="spawn",
    )


def check_length(uds: str) -> None:
    """Refuse a path that no socket can have, before anything is loaded.

    Raises:
        EngineStartError: It is too long.
    """
    if len(os.fsencode(uds)) > MAX_SOCKET_PATH_BYTES:
        raise EngineStartError(
            f"the path of the engine's socket, {uds}, is longer than {MAX_SOCKET_PATH_BYTES} bytes, so nothing was "
            "started: set TMPDIR to a shorter folder",
            stage="spawn",
        )


def _bases() -> Iterator[Path]:
    yield Path(tempfile.gettempdir())
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime)
    yield Path("/tmp")  # noqa: S108 - a folder of its own is made there, with a name that nobody can know before


def _held(folder: Path) -> Path:
    """Lock it for as long as this process lives, or until newer ones take its place."""
    with contextlib.suppress(OSError):  # a file system without locks: nobody removes it there either
        lock = file_lock.try_exclusive(folder)
        if lock is not None:
            _locks.append(lock)
    while len(_locks) > _MAX_HELD:
        os.close(_locks.pop(0))
    return folder


def _drop_leftovers(base: Path) -> None:
    """Remove folders that nobody holds. A process number alone tells little: containers that share a folder do not see
    each other's, and the same one comes again in the next.
    """
    for old in base.glob(f"{_PREFIX}[0-9]*-*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_gone = owner.isdecimal() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner)))
            if is_gone and old.is_dir() and _is_mine(old) and time.time() - old.stat().st_mtime > _NEW_S:
                _remove_unheld(old)


def _remove_unheld(folder: Path) -> None:
    lock = file_lock.try_exclusive(folder)
    if lock is None:
        return
    try:
        for leftover in folder.iterdir():
            leftover.unlink(missing_ok=True)
        folder.rmdir()
    finally:
        os.close(lock)


def _is_mine(folder: Path) -> bool:
    return folder.stat().st_uid == os.getuid()
