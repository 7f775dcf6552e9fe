"""From a model version to a verified folder on local disk.

The manifest's digest stands in a tag of the version: the registry vouches for the manifest, the manifest for every
chunk of every file, and each chunk is checked when it arrives. That is enough: the whole-file hashes in the manifest
are under the same digest, and chunks that are all right make a file that is. Hashing overlaps with the network, so
there is no time of its own for it; `verify_s` is what comes after the last byte: fsync, names, links and the marker.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from registry_hooks import attesting, contract, events, foreign, golden, manifest
from registry_hooks.blobs import BlobCache, Bound, blob_name, check_names
from registry_hooks.errors import CacheError, FileMissingError, ManifestError, NotACheckpointError, ObjectMissingError
from registry_hooks.golden import GoldenSet
from registry_hooks.manifest import Manifest
from registry_hooks.ports import ObjectReader, Progress
from registry_hooks.records import ModelVersion
from registry_hooks.transfer import Limits, Moved, Transfer, Wanted, disk_error, is_full

_LOCK_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A version whose files are on local disk, whole and verified.

    Attributes:
        digest: Of its manifest.
        directory: The folder that an engine loads.
        attested: Whether the manifest is the one that the registry names; false for versions that others made, whose
            bytes are as the store has them.
        golden: Its golden answers, checked against the registry; None when it has none.
        size_bytes: Of all its files.
        downloaded_bytes: That came over the network now: 0 when all was in the cache.
        fetch_s: Reading and hashing.
        verify_s: From the last byte to the marker.
    """

    digest: str
    directory: Path
    attested: bool
    golden: GoldenSet | None
    size_bytes: int
    downloaded_bytes: int = 0
    fetch_s: float = 0.0
    verify_s: float = 0.0


def fetch(
    version: ModelVersion,
    *,
    reader: ObjectReader,
    cache: BlobCache,
    num_connections: int,
    deadline_s: float,
    bound: Bound | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Fetched:
    """Bring the files of `version` into the cache, or find them there.

    Needs no store when the version has a manifest and is in the cache.

    Args:
        version: What to fetch; its digest and golden digest are those of its tags.
        reader: The store.
        cache: Where the files go; they stay until evicted.
        num_connections: Parallel reads.
        deadline_s: Bound on the whole, in seconds from now.
        bound: Of the cache; older checkpoints make room before the fetch. None: whatever fits onto the disk.
        progress: Told of bytes as they are there, from any thread, those of an earlier try among them.
        cancelled: Asked between chunks, from any thread.

    Raises:
        VerificationError: Manifest, a file or golden.json is not what was published.
        TruncatedObjectError: A file is shorter in the store than its manifest says.
        UnsupportedSourceError: The registry says that the files are not in S3.
        NotACheckpointError: There is no manifest and no checkpoint in safetensors either.
        FileMissingError: A file that the version must have is not in the store now.
        ObjectMissingError: Nothing of the version is in the store.
        StoreUnavailableError: The store did not answer, or time was up; the next try goes on from there.
        CacheError: The disk is full, or somebody else changed the cache.
        StoreError: The store answered with an error.
        FetchCancelledError: `cancelled` said so.
    """
    limits = Limits(
        num_connections=num_connections,
        deadline=time.monotonic() + deadline_s,
        progress=progress or (lambda num_bytes: None),
        cancelled=cancelled or (lambda: False),
    )
    errand = _Errand(version=version, reader=reader, cache=cache, limits=limits, bound=bound)
    return errand.published() if contract.TAG_MANIFEST in version.tags else errand.made_by_others()


def cached(cache: BlobCache, digest: str, *, attested: bool, golden_sha256: str | None) -> Fetched | None:
    """A checkpoint that is whole in the cache, without asking anybody; None when it is not there, or was changed.

    Args:
        cache: Where to look.
        digest: Of its manifest.
        attested: What was known of it when it was fetched.
        golden_sha256: The registry's word for its golden answers; None when it has none.
    """
    found = cache.checkpoint(digest) if manifest.is_digest(digest) else None
    if found is None:
        return None
    folder, checkpoint = found
    if wrong := attesting.changed(folder, checkpoint):
        cache.distrust(digest, wrong)
        events.logger().error("cache.damaged", checkpoint=digest, files=[entry.path for entry in wrong])
        return None
    answers = None
    if golden_sha256 is not None:
        try:
            answers = golden.parse((folder / contract.GOLDEN_FILE).read_bytes(), expected_sha256=golden_sha256)
        except (OSError, ManifestError):
            return None
    return Fetched(
        digest=digest,
        directory=folder / contract.MODEL_DIR,
        attested=attested,
        golden=answers,
        size_bytes=checkpoint.size_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errand:
    version: ModelVersion
    reader: ObjectReader
    cache: BlobCache
    limits: Limits
    bound: Bound | None

    def published(self) -> Fetched:
        """A version that Relay published."""
        digest, golden_sha256 = self.version.tags[contract.TAG_MANIFEST], self.version.tags.get(contract.TAG_GOLDEN)
        if not manifest.is_digest(digest):
            raise ManifestError(
                f"the tag {contract.TAG_MANIFEST} of {self.version.label} is {digest[:80]!r}, which is no digest: "
                "nothing was loaded; publish the checkpoint again"
            )
        found = cached(self.cache, digest, attested=True, golden_sha256=golden_sha256)
        if found:
            self.limits.progress(found.size_bytes)
            return found
        started = time.monotonic()
        with self._alone():
            checkpoint = self._read_manifest(digest)
            with self._must_be_there():
                answers = None if golden_sha256 is None else self._read_golden(golden_sha256)
                moved = self._fetch(self._missing(checkpoint), {blob_name(entry) for entry in checkpoint.files})
            self.cache.assemble(checkpoint, answers)
        return self._timed(
            cached(self.cache, digest, attested=True, golden_sha256=golden_sha256), moved, started_at=started
        )

    def made_by_others(self) -> Fetched:
        """A version that others made: what arrives is its manifest."""
        started = time.monotonic()
        with self._alone():
            found = foreign.find_checkpoint(self.reader.list_objects(self._root), self._root)
            moved = self._fetch([self._undescribed(item) for item in found], frozenset())
            entries = zip(found, moved.entries, strict=True)
            checkpoint = manifest.build(replace(entry, path=item.path) for item, entry in entries)
            self.cache.assemble(checkpoint, None)
        return self._timed(
            cached(self.cache, checkpoint.digest, attested=False, golden_sha256=None), moved, started_at=started
        )

    @property
    def _root(self) -> str:
        return self.version.artifact_uri.rstrip("/")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the cache's fetch lock: two processes that fill one cache take turns."""
        lock = self.cache.try_fetch_lock()
        while lock is None:
            self.limits.check()
            time.sleep(_LOCK_POLL_S)
            lock = self.cache.try_fetch_lock()
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.cache.root) from error
        finally:
            os.close(lock)

    def _read_manifest(self, digest: str) -> Manifest:
        try:
            data = self.reader.read(
                f"{self._root}/{contract.MANIFEST_FILE}", manifest.MAX_MANIFEST_BYTES, check=self.limits.check
            )
        except ObjectMissingError as error:
            raise self._missed(error, self.reader.list_objects(self._root)) from error
        checkpoint = manifest.parse(data, expected_digest=digest)
        check_names(checkpoint)
        if f"{contract.MODEL_DIR}/config.json" not in {entry.path for entry in checkpoint.files}:
            raise NotACheckpointError(f"the manifest of {self.version.label} names no model: it was not served")
        return checkpoint

    @contextmanager
    def _must_be_there(self) -> Iterator[None]:
        """What is read from here on is named by the version's own, verified manifest or by the registry."""
        try:
            yield
        except ObjectMissingError as error:
            raise self._missed(error, [contract.MANIFEST_FILE]) from error

    def _missed(self, error: ObjectMissingError, others: Sequence[object]) -> ObjectMissingError:
        """What a missing file means: beside others the version lacks it, but where all are, the store may be wrong."""
        if others:
            return FileMissingError(f"{error} (other files of {self.version.label} are there)")
        return ObjectMissingError(
            f"nothing of {self.version.label} is in the store ({error}): does `store.endpoint_url` name the store that "
            "it was published to?"
        )

    def _read_golden(self, sha256: str) -> bytes:
        data = self.reader.read(
            f"{self._root}/{contract.GOLDEN_FILE}", golden.MAX_GOLDEN_BYTES, check=self.limits.check
        )
        golden.parse(data, expected_sha256=sha256)
        return data

    def _missing(self, checkpoint: Manifest) -> list[Wanted]:
        """Files that are not in the cache; equal ones are fetched once."""
        by_name = {blob_name(entry): entry for entry in checkpoint.files}
        missing = {name: entry for name, entry in by_name.items() if not self.cache.has_blob(entry)}
        here = checkpoint.size_bytes - sum(entry.size_bytes for entry in missing.values())
        self.limits.progress(here)
        return [
            Wanted(uri=f"{self._root}/{entry.path}", name=name, size_bytes=entry.size_bytes, entry=entry)
            for name, entry in missing.items()
        ]

    def _undescribed(self, item: foreign.Found) -> Wanted:
        uri = f"{self._root}/{item.key}"
        name = f"foreign-{hashlib.sha256(uri.encode()).hexdigest()}"
        return Wanted(uri=uri, name=name, size_bytes=item.size_bytes, entry=None, etag=item.etag)

    def _fetch(self, files: list[Wanted], names: Set[str]) -> Moved:
        """Fetch `files` into a cache with room for them; `names` are the blobs of the whole checkpoint."""
        transfer = Transfer(self.reader, self.cache, self.limits)
        self._make_room(files, names)
        try:
            return transfer.run(files)
        except OSError as error:
            if not (is_full(error) and self._make_room(files, names, again=True)):
                raise
        return transfer.run(files)

    def _make_room(self, files: list[Wanted], names: Set[str], *, again: bool = False) -> int:
        if self.bound is None or not files:
            return 0
        arriving = {what.name for what in files}
        num_bytes = sum(what.size_bytes - self.cache.arrived_bytes(what.name) for what in files)
        removed = self.cache.make_room(max(0, num_bytes), self.bound, names=names | arriving, again=again)
        if removed:
            events.logger().info("cache.evicted", num_bytes=removed, for_version=self.version.version)
        return removed

    def _timed(self, found: Fetched | None, moved: Moved, *, started_at: float) -> Fetched:
        if found is None:
            raise CacheError(
                f"the cache {self.cache.root} was changed by somebody else: {self.version.label} is not whole"
            )
        return replace(
            found,
            downloaded_bytes=moved.num_bytes,
            fetch_s=moved.filled_at - started_at,
            verify_s=time.monotonic() - moved.filled_at,
        )
