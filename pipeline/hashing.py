"""Hashes the files of a checkpoint: each read once, for its own sha256 and those of its chunks, on all cores."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from registry_hooks import manifest
from registry_hooks.errors import CorruptFileError
from registry_hooks.manifest import FileEntry
from registry_hooks.ports import Progress

_MAX_THREADS = 8
# Chunks of one file that may wait in memory for a core.
_MAX_PENDING_CHUNKS = 4


def hash_files(folder: Path, names: Sequence[str], *, prefix: str, progress: Progress) -> list[FileEntry]:
    """An entry for each of `names` in `folder`, in that order; its path is `prefix/name`.

    Raises:
        CorruptFileError: A file changed or went away meanwhile.
    """
    num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads, "hash-chunk") as chunks, ThreadPoolExecutor(num_threads, "hash") as files:
        pending = [files.submit(_hash_file, folder / name, f"{prefix}/{name}", chunks, progress) for name in names]
        return [future.result() for future in pending]


def _hash_file(path: Path, entry_path: str, chunks: ThreadPoolExecutor, progress: Progress) -> FileEntry:
    whole = hashlib.sha256()
    pending: deque[Future[str]] = deque()
    digests: list[str] = []
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for index in range(manifest.num_chunks(size)):
                start, end = manifest.chunk_span(index, size)
                data = os.pread(file.fileno(), end - start, start)
                pending.append(chunks.submit(_sha256, data))
                whole.update(data)
                progress(len(data))
                while len(pending) > _MAX_PENDING_CHUNKS:
                    digests.append(pending.popleft().result())
            digests += [future.result() for future in pending]
            changed = os.fstat(file.fileno()).st_size != size
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read any more ({error}), so nothing was published") from error
    if changed:
        raise CorruptFileError(
            f"{path} changed while it was read, so nothing was published: publish when the save is done"
        )
    return FileEntry(path=entry_path, size_bytes=size, sha256=whole.hexdigest(), chunk_sha256=tuple(digests))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
