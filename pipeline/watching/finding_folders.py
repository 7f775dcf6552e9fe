"""Where trainers put checkpoints: in the watched folder itself, or in the folders of trainings and trials in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from pipeline.watching import wholeness

PATTERN = "checkpoint-*"
# `runs/TRAINING/TRIAL/checkpoint-N`.
MAX_DEPTH = 2


def checkpoint_folders(folder: Path, *, apart_from: Path | None = None) -> list[Path]:
    """All `checkpoint-*` folders in `folder` and up to two levels below, by step; nothing hidden, no links.

    Args:
        apart_from: A folder whose content is no training's, such as a queue.
    """
    found = (path for path in _below(folder, MAX_DEPTH) if path.parent != apart_from)
    return sorted(found, key=wholeness.step_order)


def name_of(checkpoint: Path, folder: Path) -> str:
    """What people call it: its path from the watched folder."""
    return checkpoint.relative_to(folder).as_posix()


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it went away
        return
    for name in names:
        if fnmatch(name, PATTERN):
            yield folder / name
        elif depth and not name.startswith("."):
            yield from _below(folder / name, depth - 1)
