"""Files on their way into the cache: all chunks of all files in parallel, hashed as they arrive, resumable.

There is no record of what has arrived: a chunk that lies in the partial file and has the right hash is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import stamina

from registry_hooks import manifest
from registry_hooks.blobs import BlobCache
from registry_hooks.errors import (
    CacheError,
    CorruptFileError,
    FetchCancelledError,
    ObjectChangedError,
    StoreUnavailableError,
    TruncatedObjectError,
)
from registry_hooks.manifest import FileEntry
from registry_hooks.ports import ObjectReader, Progress

ATTEMPTS = 5
MAX_WAIT_S = 4.0
# Writing back begins while chunks still arrive, so that the last fsync is short.
_SYNC_EVERY_CHUNKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a transfer.

    Attributes:
        deadline: On the monotonic clock, in seconds.
    """

    num_connections: int
    deadline: float
    progress: Progress
    cancelled: Callable[[], bool]

    def check(self) -> None:
        """Raises when the transfer must end."""
        if self.cancelled():
            raise FetchCancelledError("the fetch was cancelled; what had arrived is kept for a later one")
        if time.monotonic() > self.deadline:
            raise StoreUnavailableError(
                "the fetch took longer than its bound (serve.fetch_timeout_s); what had arrived is kept, the next try "
                "goes on from there"
            )


MAX_OPEN_FILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file to fetch.

    Attributes:
        uri: Its object.
        name: Of its partial file.
        entry: What its bytes must be; None when nobody said.
        etag: The store's name for the state of the object that is meant; empty for any.
    """

    uri: str
    name: str
    size_bytes: int
    entry: FileEntry | None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a transfer did.

    Attributes:
        num_bytes: That came over the network.
        entries: Of the files, in order; of files that nobody described they say what arrived, under the path `""`.
        filled_at: When the last byte was there, on the monotonic clock.
    """

    num_bytes: int
    entries: tuple[FileEntry, ...]
    filled_at: float


class _Arriving:
    """One file that is being filled."""

    def __init__(self, what: Wanted, path: Path) -> None:
        self.what, self.path = what, path
        # Without hashes nothing says which chunks of an earlier try are right.
        self.resumed = what.entry is not None and path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if self.resumed else os.O_TRUNC)
        self.fd = os.open(path, flags, 0o600)
        self.chunk_sha256 = [""] * manifest.num_chunks(what.size_bytes)
        self._num_missing, self._lock = len(self.chunk_sha256), threading.Lock()

    def reserve(self) -> None:
        """Take the space now: a full disk shows before the first byte is fetched."""
        os.ftruncate(self.fd, self.what.size_bytes)
        if self.what.size_bytes and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.fd, 0, self.what.size_bytes)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot
                    raise

    def arrived(self, index: int, sha256: str) -> bool:
        """Note a chunk; whether it was the last one missing."""
        with self._lock:
            self.chunk_sha256[index] = sha256
            self._num_missing -= 1
            return self._num_missing == 0


class Transfer:
    """Fetches files into a cache. The caller holds the cache's fetch lock."""

    def __init__(self, reader: ObjectReader, cache: BlobCache, limits: Limits) -> None:
        self._reader, self._cache, self._limits = reader, cache, limits
        self._failed = threading.Event()
        self._buffers = threading.local()

    def run(self, files: Sequence[Wanted]) -> Moved:
        """Fetch all files and make them blobs, `MAX_OPEN_FILES` at a time: a manifest may name more than may be open.

        Raises:
            CorruptFileError: A file's bytes are wrong in the store; nothing of it is kept.
            StoreUnavailableError: The store does not answer, or time is up; what has arrived is kept.
            FetchCancelledError: The caller gave up; what has arrived is kept.
            TruncatedObjectError: An object is shorter than its entry says.
            ObjectChangedError: An object that nobody described was written anew meanwhile.
            OSError: The disk is full, or broken; what has arrived is removed.
        """
        done = [self._run(files[at : at + MAX_OPEN_FILES]) for at in range(0, len(files), MAX_OPEN_FILES)]
        return Moved(
            num_bytes=sum(part.num_bytes for part in done),
            entries=tuple(entry for part in done for entry in part.entries),
            filled_at=done[-1].filled_at if done else time.monotonic(),
        )

    def _run(self, files: Sequence[Wanted]) -> Moved:
        arriving: list[_Arriving] = []
        try:
            for what in files:
                arriving.append(_Arriving(what, self._cache.partial(what.name)))
                arriving[-1].reserve()
            num_bytes = self._fill(arriving)
            filled_at = time.monotonic()
            entries = tuple(self._finish(file) for file in arriving)
            return Moved(num_bytes=num_bytes, entries=entries, filled_at=filled_at)
        except OSError:
            for file in arriving:
                file.path.unlink(missing_ok=True)
            raise
        finally:
            for file in arriving:
                os.close(file.fd)

    def _fill(self, files: Sequence[_Arriving]) -> int:
        with futures.ThreadPoolExecutor(self._limits.num_connections, thread_name_prefix="fetch") as pool:
            jobs = [pool.submit(self._chunk, file, index) for file in files for index in range(len(file.chunk_sha256))]
            try:
                done, _ = futures.wait(jobs, return_when=futures.FIRST_EXCEPTION)
                return sum(job.result() for job in sorted(done, key=lambda job: job.exception() is None))
            except BaseException:
                self._failed.set()  # chunks that have begun end at their next step, the others never begin
                pool.shutdown(cancel_futures=True)
                raise

    def _chunk(self, file: _Arriving, index: int) -> int:
        """Get one chunk right; bytes that came over the network."""
        self._check()
        start, end = manifest.chunk_span(index, file.what.size_bytes)
        buffer = self._buffer(end - start)
        if file.resumed and self._is_there(file, index, start, buffer):
            num_bytes = 0
        else:
            num_bytes = self._fetch(file, index, start, buffer)
        self._limits.progress(end - start)
        return num_bytes

    def _is_there(self, file: _Arriving, index: int, start: int, buffer: memoryview) -> bool:
        entry = file.what.entry
        if entry is None or os.preadv(file.fd, [buffer], start) != len(buffer):
            return False
        right = hashlib.sha256(buffer).hexdigest() == entry.chunk_sha256[index]
        if right:
            file.arrived(index, entry.chunk_sha256[index])
        return right

    def _fetch(self, file: _Arriving, index: int, start: int, buffer: memoryview) -> int:
        expected = file.what.entry.chunk_sha256[index] if file.what.entry else None
        for num_bytes in (len(buffer), 2 * len(buffer)):  # a flip on the way is cured by asking once more
            self._read(file.what, start, buffer)
            actual = hashlib.sha256(buffer).hexdigest()
            if expected in (None, actual):
                _write(file.fd, buffer, start)
                if file.arrived(index, actual) or index % _SYNC_EVERY_CHUNKS == _SYNC_EVERY_CHUNKS - 1:
                    os.fsync(file.fd)
                return num_bytes
        file.path.unlink(missing_ok=True)
        raise CorruptFileError(
            f"{file.what.uri} has wrong bytes in chunk {index} ({actual[:12]}… in place of {expected}), twice: it was "
            "changed or damaged after publishing; nothing of it was kept, publish the checkpoint again"
        )

    def _read(self, what: Wanted, start: int, buffer: memoryview) -> None:
        left_s = max(0.0, self._limits.deadline - time.monotonic())
        try:
            for attempt in stamina.retry_context(
                on=StoreUnavailableError, attempts=ATTEMPTS, timeout=left_s, wait_initial=0.2, wait_max=MAX_WAIT_S
            ):
                with attempt:
                    self._check()
                    self._reader.read_into(what.uri, start, buffer, etag=what.etag, check=self._check)
        except TruncatedObjectError as error:
            if what.entry is None:  # it was that long when it was listed
                raise ObjectChangedError(f"{what.uri} was written anew while it was read ({error})") from error
            raise

    def _finish(self, file: _Arriving) -> FileEntry:
        entry = file.what.entry or _describe(file)
        self._cache.commit(file.path, entry)
        return entry

    def _check(self) -> None:
        if self._failed.is_set():
            raise FetchCancelledError("another part of this fetch failed")
        self._limits.check()

    def _buffer(self, num_bytes: int) -> memoryview:
        if not hasattr(self._buffers, "whole"):
            self._buffers.whole = memoryview(bytearray(manifest.CHUNK_BYTES))
        view: memoryview = self._buffers.whole[:num_bytes]
        return view


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or what this user may have of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_error(error: OSError, cache: Path) -> CacheError:
    """What an error of the cache's disk means."""
    if is_full(error):
        return CacheError(
            f"the disk of {cache} is full; what had arrived of this version was removed: make room, or lower "
            "serve.max_cache_bytes"
        )
    return CacheError(f"the cache {cache} cannot be used: {error}")


def _write(fd: int, buffer: memoryview, start: int) -> None:
    position = 0
    while position < len(buffer):
        position += os.pwrite(fd, buffer[position:], start + position)


def _describe(file: _Arriving) -> FileEntry:
    """The entry of a file whose chunks were hashed on arrival; a larger one is hashed whole from the page cache."""
    chunks = tuple(file.chunk_sha256)
    if len(chunks) == 1:
        whole = chunks[0]
    else:
        with open(file.fd, "rb", closefd=False) as stream:
            stream.seek(0)
            whole = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(path="", size_bytes=file.what.size_bytes, sha256=whole, chunk_sha256=chunks)
