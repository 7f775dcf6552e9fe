"""The local cache: files by their content, and the checkpoints that are made of them.

    blobs/sha256/<name>         whole, verified files; read-only
    partial/<name>              files that are still arriving
    checkpoints/<digest>/…      hard links: the files of one checkpoint, under their paths in the manifest,
                                manifest.json, golden.json if there is one, VERIFIED (what was seen of the files when
                                they were verified), and COMPLETE, written last
    last_good/<model>.json      what to serve when registry and store are away (`last_good.py`)

Several servers may share one cache. Short sections hold `lock`, a fetch holds `fetch.lock`, and a process that uses
a checkpoint shares a lock on its marker, so that no other process evicts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from registry_hooks import attesting, contract, file_lock, manifest
from registry_hooks.durable import sync_folder, write_atomically
from registry_hooks.errors import CacheError, ManifestError
from registry_hooks.manifest import FileEntry, Manifest

MARKER = "COMPLETE"
RESERVED = (contract.MANIFEST_FILE, contract.GOLDEN_FILE, MARKER, attesting.NOTE)
STALE_S = 24 * 3600.0
# What a fetch leaves free on the disk: manifests, markers and logs are written, too.
RESERVE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How large a cache may become.

    Attributes:
        keep: Digests of checkpoints that stay whatever happens.
    """

    max_bytes: int
    keep: Set[str] = frozenset()


def blob_name(entry: FileEntry) -> str:
    """Name of a file's blob, 64 hex digits: the hash of what is verified when it arrives.

    For a file of one chunk that is its sha256. Of a larger file only the chunks are verified, so the name is the
    sha256 of the chunk hashes: under the manifest's word for the whole file, a manifest that contradicts itself could
    put wrong bytes under a name that another checkpoint trusts.
    """
    if len(entry.chunk_sha256) <= 1:
        return entry.sha256
    return hashlib.sha256("\n".join(entry.chunk_sha256).encode()).hexdigest()


def check_names(checkpoint: Manifest) -> None:
    """Refuse a manifest that uses a name which the cache needs itself.

    Raises:
        ManifestError: It does.
    """
    for entry in checkpoint.files:
        if entry.path.split("/")[0] in RESERVED:
            raise ManifestError(f"manifest names {entry.path!r}, which is reserved: nothing was loaded")


class BlobCache:
    """Verified files on local disk. Any thread and any number of processes may use one folder.

    Raises:
        CacheError: There is no such folder, and none can be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._blobs, self._partial = self.root / "blobs" / "sha256", self.root / "partial"
        self._checkpoints = self.root / "checkpoints"
        self._short_lock, self._fetch_lock = self.root / "lock", self.root / "fetch.lock"
        try:
            for folder in (self._blobs, self._partial, self._checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            for lock in (self._short_lock, self._fetch_lock):
                if not lock.exists():  # a disk that became read-only still serves what is on it
                    lock.touch()
        except OSError as error:
            raise CacheError(
                f"the cache {self.root} cannot be used ({error}): set serve.cache_dir to another"
            ) from error
        self._in_use: dict[str, int] = {}

    def partial(self, name: str) -> Path:
        """Where a file arrives."""
        return self._partial / name

    def arrived_bytes(self, name: str) -> int:
        """Disk space that the partial file of that name has taken already."""
        path = self.partial(name)
        return path.stat().st_size if path.exists() else 0

    def has_blob(self, entry: FileEntry) -> bool:
        """Whether the whole file is here; hashes it again, since anybody may have changed it on disk meanwhile."""
        blob = self._blobs / blob_name(entry)
        return blob.exists() and attesting.has_bytes(blob, entry)

    def distrust(self, digest: str, wrong: Iterable[FileEntry]) -> None:
        """Forget a checkpoint and those of its files whose bytes are wrong: the next fetch brings them anew."""
        with file_lock.exclusive(self._short_lock):
            (self._checkpoints / digest / MARKER).unlink(missing_ok=True)
            for entry in wrong:
                (self._blobs / blob_name(entry)).unlink(missing_ok=True)

    def commit(self, partial: Path, entry: FileEntry) -> None:
        """Make a verified file a blob; it is on disk before it has its name."""
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o444)
        partial.replace(self._blobs / blob_name(entry))

    def try_fetch_lock(self) -> int | None:
        """An open descriptor under which one fetch at a time fills this cache; None while another does."""
        return file_lock.try_exclusive(self._fetch_lock)

    def assemble(self, checkpoint: Manifest, golden: bytes | None) -> Path:
        """Make the folder of a checkpoint whose blobs are all here, verified just now; the marker comes last.

        Raises:
            ManifestError: The manifest uses a name that the cache needs.
        """
        check_names(checkpoint)
        folder = self._checkpoints / checkpoint.digest
        with file_lock.exclusive(self._short_lock):
            if not (folder / MARKER).exists():
                shutil.rmtree(folder, ignore_errors=True)
                self._link(folder, checkpoint)
                write_atomically(folder / contract.MANIFEST_FILE, checkpoint.to_json())
                attesting.note(folder, checkpoint)
            if golden is not None:  # those of a whole checkpoint may change: it can be published again with others
                write_atomically(folder / contract.GOLDEN_FILE, golden)
            if not (folder / MARKER).exists():
                write_atomically(folder / MARKER, checkpoint.digest.encode())
            self._use(folder)
        return folder

    def checkpoint(self, digest: str) -> tuple[Path, Manifest] | None:
        """Folder and manifest of a complete checkpoint; None when it is not here, or not whole.

        It cannot be evicted by another process from here on until this one ends or evicts it itself.
        """
        folder = self._checkpoints / digest
        with file_lock.exclusive(self._short_lock):
            if not (folder / MARKER).exists():
                return None
            try:
                found = manifest.parse((folder / contract.MANIFEST_FILE).read_bytes(), expected_digest=digest)
                whole = all((folder / f.path).stat().st_size == f.size_bytes for f in found.files)
            except (OSError, ManifestError):
                whole = False
            if not whole:  # somebody tidied up by hand
                (folder / MARKER).unlink()
                return None
            self._use(folder)
        return folder, found

    def use_only(self, digests: Set[str]) -> None:
        """Let go of all checkpoints but `digests`: other processes may evict them, and no descriptor is held for them.

        Not while a fetch of this process is under way, which would lose what it has just made.
        """
        if self._in_use.keys() <= digests:
            return
        with file_lock.exclusive(self._short_lock):
            for digest in self._in_use.keys() - digests:
                os.close(self._in_use.pop(digest))

    def size_bytes(self) -> int:
        """Bytes of all files, whole and arriving; each is counted once."""
        return sum(path.stat().st_size for path in self._files())

    def evict(self, bound: Bound) -> int:
        """Remove what was not used for longest until the bound is kept; bytes that were removed.

        Never removes a checkpoint that must stay or is in use by another process, even when those alone are more than
        the bound. What a fetch is about to use stays, too.
        """
        with file_lock.exclusive(self._short_lock):
            fetch_lock = self.try_fetch_lock()
            try:
                return self._evict(bound.max_bytes, bound.keep, None if fetch_lock is None else frozenset())
            finally:
                if fetch_lock is not None:
                    os.close(fetch_lock)

    def make_room(self, num_bytes: int, bound: Bound, *, names: Set[str], again: bool = False) -> int:
        """Evict before a fetch, until what it brings keeps the bound and finds place on the disk; bytes removed.

        The caller holds the fetch lock.

        Args:
            num_bytes: That are to come.
            names: Blobs that the fetch is for: those that are here stay.
            again: The disk was full although there seemed to be place: remove as much as is to come.

        Raises:
            CacheError: The disk has no place for them even without all that may go; nothing was removed.
        """
        with file_lock.exclusive(self._short_lock):
            used, free = self.size_bytes(), shutil.disk_usage(self.root).free
            most_free = free + used - self._staying_bytes(bound.keep, names)
            if num_bytes > most_free:
                raise CacheError(
                    f"{num_bytes} bytes are to come, and the disk of {self.root} has place for {most_free} without all "
                    "that may go, so nothing was removed: set serve.cache_dir to a folder on a larger disk"
                )
            most = min(bound.max_bytes, used + free - RESERVE_BYTES) - num_bytes
            return self._evict(min(most, used - num_bytes) if again else most, bound.keep, names)

    def _staying_bytes(self, keep: Set[str], names: Set[str]) -> int:
        """Bytes of the files that no eviction removes: those of `keep`, and the blobs and partial files of `names`."""
        kept = {blob_name(entry) for digest in keep for entry in _files_of(self._checkpoints / digest)} | names
        return sum(path.stat().st_size for path in self._files() if path.name in kept)

    def _files(self) -> Iterator[Path]:
        yield from (*self._blobs.iterdir(), *self._partial.iterdir())

    def _evict(self, max_bytes: int, keep: Set[str], spared: Set[str] | None) -> int:
        """Remove down to `max_bytes`, but no blob of `spared`; None for no blob at all, since a fetch may use any."""
        before = self.size_bytes()
        for folder in sorted(self._checkpoints.iterdir(), key=_last_use):
            if self.size_bytes() <= max_bytes:
                break
            if folder.name not in keep and self._release(folder):
                self._drop_checkpoint(folder, spared)
        if spared is not None:
            self._drop_leftovers(max_bytes, spared)
        return before - self.size_bytes()

    def _drop_checkpoint(self, folder: Path, spared: Set[str] | None) -> None:
        names = {blob_name(entry) for entry in _files_of(folder)}
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
        for blob in (self._blobs / name for name in names - spared) if spared is not None else ():
            if blob.exists() and blob.stat().st_nlink == 1:
                blob.unlink()

    def _release(self, folder: Path) -> bool:
        """Whether nobody else uses a checkpoint; this process no longer does afterwards."""
        mine = self._in_use.pop(folder.name, None)
        if mine is not None:
            os.close(mine)
        if not (folder / MARKER).exists():  # made under the short lock, which we hold: its maker is dead
            return True
        fd = file_lock.try_exclusive(folder / MARKER)
        if fd is not None:
            os.close(fd)
        elif mine is not None:
            self._use(folder)
        return fd is not None

    def _drop_leftovers(self, max_bytes: int, spared: Set[str]) -> None:
        """Remove what fetches left that never ended: after a day, or when room is needed; the oldest first."""
        unused = [path for path in self._blobs.iterdir() if path.stat().st_nlink == 1] + list(self._partial.iterdir())
        leftovers = [path for path in unused if path.name not in spared]
        too_old = time.time() - STALE_S
        for path in sorted(leftovers, key=lambda path: path.stat().st_mtime):
            if path.stat().st_mtime < too_old or self.size_bytes() > max_bytes:
                path.unlink()

    def _link(self, folder: Path, checkpoint: Manifest) -> None:
        for entry in checkpoint.files:
            place = folder / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(self._blobs / blob_name(entry))
        sync_folder(folder)

    def _use(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # a disk that became read-only: then nothing is evicted either
            os.utime(folder / MARKER)
        if folder.name not in self._in_use:
            fd = file_lock.try_shared(folder / MARKER)
            if fd is not None:
                self._in_use[folder.name] = fd


def _last_use(folder: Path) -> float:
    try:
        return (folder / MARKER).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _files_of(folder: Path) -> tuple[FileEntry, ...]:
    try:
        return manifest.parse((folder / contract.MANIFEST_FILE).read_bytes()).files
    except (OSError, ManifestError):
        return ()  # a folder that was never whole; its blobs are leftovers
