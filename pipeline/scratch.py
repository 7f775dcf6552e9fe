"""A folder for what publishing needs on disk for a while, such as a converted copy of the weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PREFIX = "relay-publish-"


@contextmanager
def scratch_dir() -> Iterator[Path]:
    """A private folder (0700) below `TMPDIR`; those of publishers that were killed are removed first."""
    base = Path(tempfile.gettempdir())
    for leftover in base.glob(f"{_PREFIX}[0-9]*-*"):
        owner = leftover.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)) and _is_ours(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except OSError:
        return False
