"""Whether files on disk are still those that were verified when they arrived.

Small files are hashed each time. Of large ones a note is kept, in the checkpoint's folder, of size, time of the last
change and inode; one that differs from its note, or has none, is hashed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry_hooks import manifest
from registry_hooks.durable import write_atomically
from registry_hooks.manifest import FileEntry, Manifest

NOTE = "VERIFIED"
# The file is gone, or a part of the disk is.
_UNREADABLE = (errno.ENOENT, errno.ENOTDIR, errno.EIO)

Facts = list[int]
"""Size in bytes, time of the last change in ns, inode."""


def note(folder: Path, checkpoint: Manifest) -> None:
    """Write down that the files of `checkpoint` below `folder` have just been verified."""
    facts = {entry.path: _facts(folder / entry.path) for entry in checkpoint.files}
    write_atomically(folder / NOTE, json.dumps(facts).encode())


def changed(folder: Path, checkpoint: Manifest) -> list[FileEntry]:
    """The files whose bytes are no longer those that the manifest names; those that are missing among them.

    Raises:
        OSError: This process cannot read now: it has no memory, no descriptor, or not the right.
    """
    known = _read_note(folder)
    wrong, has_hashed_large = [], False
    for entry in checkpoint.files:
        is_large = entry.size_bytes > manifest.CHUNK_BYTES
        try:
            if is_large and known.get(entry.path) == _facts(folder / entry.path):
                continue
            is_right = has_bytes(folder / entry.path, entry)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            is_right = False
        has_hashed_large |= is_large
        if not is_right:
            wrong.append(entry)
    if has_hashed_large and not wrong:
        with contextlib.suppress(OSError):  # without it they are hashed again next time, and no more
            note(folder, checkpoint)
    return wrong


def has_bytes(path: Path, entry: FileEntry) -> bool:
    """Whether the file at `path` is the one that `entry` describes; hashes all of it.

    Raises:
        OSError: It cannot be read.
    """
    return path.stat().st_size == entry.size_bytes and tuple(_chunk_hashes(path)) == entry.chunk_sha256


def _chunk_hashes(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while chunk := file.read(manifest.CHUNK_BYTES):
            yield hashlib.sha256(chunk).hexdigest()


def _facts(path: Path) -> Facts:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _read_note(folder: Path) -> dict[str, Facts]:
    try:
        document: Any = json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
