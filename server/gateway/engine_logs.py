"""Where engines log: one folder for each process of the gateway, so that no two of one name write over each other."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Set
from datetime import UTC, datetime
from pathlib import Path

import psutil

MAX_LOGS = 20
MAX_FOLDERS = 10
# A log that grows larger begins anew: a program in the engine's place may write as much as it likes.
MAX_LOG_BYTES = 64 * 1024 * 1024


class EngineLogs:
    """The logs of one gateway's engines; the oldest go, but none that a live engine writes.

    Args:
        root: Folder of all gateways of this name, those before this one too.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._numbers = itertools.count(1)
        _drop_oldest(root)

    def new(self, in_use: Set[Path]) -> Path:
        """Where the next engine logs; older logs are removed, but never one of `in_use`."""
        with contextlib.suppress(OSError):  # an engine starts without a log rather than not at all
            self.folder.mkdir(parents=True, exist_ok=True)
            old = [path for path in _by_age(self.folder, "engine-*.log") if path not in in_use]
            for path in old[: max(0, len(old) - MAX_LOGS + 1)]:
                path.unlink(missing_ok=True)
        return self.folder / f"engine-{next(self._numbers)}.log"


def bound(path: Path) -> None:
    """Empty a log that has grown too large; whoever writes it goes on at its new end."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            os.truncate(path, 0)


def _drop_oldest(root: Path) -> None:
    """Keep the newest folders of gateways that are gone; their logs say why they went."""
    gone = [path for path in _by_age(root, "*-*") if path.is_dir() and not _is_live(path)]
    for folder in gone[: max(0, len(gone) - MAX_FOLDERS + 1)]:
        shutil.rmtree(folder, ignore_errors=True)


def _is_live(folder: Path) -> bool:
    pid = folder.name.rpartition("-")[2]
    # In a container every start has the same number: an earlier folder of our own is that of one that is gone.
    return pid.isdecimal() and int(pid) != os.getpid() and psutil.pid_exists(int(pid))


def _by_age(folder: Path, pattern: str) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another gateway of this name tidies up too
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]
