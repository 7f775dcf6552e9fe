"""The in-memory twin of the S3 door: same promises, same errors, no server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry_hooks import manifest
from registry_hooks.errors import (
    AccessDeniedError,
    CorruptFileError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectTooLargeError,
    StoreUnavailableError,
    TruncatedObjectError,
)
from registry_hooks.manifest import FileEntry
from registry_hooks.ports import Check, Progress, no_check
from registry_hooks.records import ObjectInfo
from registry_hooks.s3_uri import split


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    data: bytes
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:32]


class MemoryStore:
    """Objects in a dictionary. Implements the ports `ObjectReader`, `ObjectWriter` and `ObjectTrial`.

    Attributes:
        down: While true, nothing answers.
        denied: While true, every call is refused.
        before_read: Called with the URI and the start of each read, on the reader's thread; may raise or wait.
        num_sent_bytes: Bytes that `upload` really moved.
    """

    def __init__(self) -> None:
        self.down = False
        self.denied = False
        self.before_read: Callable[[str, int], None] = lambda uri, start: None
        self.num_sent_bytes = 0
        self._objects: dict[str, _Object] = {}
        self._lock = threading.Lock()

    def list_objects(self, uri: str) -> Sequence[ObjectInfo]:
        self._admit(uri)
        prefix = uri.rstrip("/") + "/"
        with self._lock:
            found = {key: item for key, item in self._objects.items() if key.startswith(prefix)}
        return [
            ObjectInfo(key=key.removeprefix(prefix), size_bytes=len(item.data), etag=item.etag)
            for key, item in sorted(found.items())
        ]

    def read(self, uri: str, max_bytes: int, *, check: Check = no_check) -> bytes:
        data = self._get(uri, 0).data
        check()
        if len(data) > max_bytes:
            raise ObjectTooLargeError(f"{uri} has {len(data)} bytes, at most {max_bytes} may be read")
        return data

    def read_into(self, uri: str, start: int, buffer: memoryview, *, etag: str = "", check: Check = no_check) -> None:
        item = self._get(uri, start)
        check()
        if etag not in ("", item.etag):
            raise ObjectChangedError(f"{uri} was written anew while it was read")
        data = item.data[start : start + len(buffer)]
        if len(data) < len(buffer):
            raise TruncatedObjectError(
                f"{uri} ends {len(buffer) - len(data)} bytes early: it is truncated in the store"
            )
        buffer[:] = data

    def write(self, uri: str, data: bytes) -> None:
        self._admit(uri)
        with self._lock:
            self._objects[uri] = _Object(data=bytes(data))

    def delete(self, uri: str) -> None:
        self._admit(uri)
        with self._lock:
            self._objects.pop(uri, None)

    def upload(self, path: Path, entry: FileEntry, uri: str, progress: Progress) -> None:
        self._admit(uri)
        there = self._objects.get(uri)
        if there and there.sha256 == entry.sha256 and len(there.data) == entry.size_bytes:
            progress(entry.size_bytes)
            return
        data = _unchanged(path, entry)
        with self._lock:
            self._objects[uri] = _Object(data=data, sha256=entry.sha256)
            self.num_sent_bytes += len(data)
        progress(len(data))

    def _get(self, uri: str, start: int) -> _Object:
        self._admit(uri)
        self.before_read(uri, start)
        item = self._objects.get(uri)
        if item is None:
            raise ObjectMissingError(f"{uri} is not in the store: publish it again, or mend the version")
        return item

    def _admit(self, uri: str) -> None:
        split(uri)
        if self.denied:
            raise AccessDeniedError(f"{uri} was refused: the store accepts no key")
        if self.down:
            raise StoreUnavailableError(f"{uri} was not reached: the store is down")


def _unchanged(path: Path, entry: FileEntry) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read any more ({error.strerror}): no object was made") from error
    spans = (manifest.chunk_span(index, len(data)) for index in range(manifest.num_chunks(len(data))))
    hashes = tuple(hashlib.sha256(data[start:end]).hexdigest() for start, end in spans)
    if hashes != entry.chunk_sha256:
        raise CorruptFileError(f"{path} changed since it was hashed: no object was made, publish the checkpoint again")
    return data
