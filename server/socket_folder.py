"""Where engines listen: Unix sockets in a private folder, whose path must be short."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from registry_hooks.errors import EngineStartError

_PREFIX = "relay-"
# What the kernel takes, its closing zero not counted; macOS takes four fewer.
MAX_SOCKET_PATH_BYTES = 103
# `/relay-PID-` and eight letters, `/` and the longest name that a socket gets.
_BELOW_BASE_BYTES = len("/relay-4194304-abcdefgh/e1000000.sock")


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
                return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
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


def _drop_leftovers(base: Path) -> None:
    for old in base.glob(f"{_PREFIX}[0-9]*-*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if owner.isdecimal() and not psutil.pid_exists(int(owner)) and old.is_dir() and _is_mine(old):
                for leftover in old.iterdir():
                    leftover.unlink(missing_ok=True)
                old.rmdir()


def _is_mine(folder: Path) -> bool:
    return folder.stat().st_uid == os.getuid()
