"""The manifest: which files a checkpoint has, and what their bytes must be. Pure; standard library only.

The digest of the manifest is the identity of the checkpoint: equal files give an equal digest, whoever
publishes them and whenever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from registry_hooks.errors import ManifestError

FORMAT = 1
CHUNK_BYTES = 16 * 1024 * 1024
# What every file system that we know takes, below the folder of any cache.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_FILES = 10_000
MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # 1 TB of weights needs about 5 MB of manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file.

    Attributes:
        path: Below the artifact root, `/` between the parts; never absolute, never with `..`.
        sha256: Of the whole file, 64 hex digits.
        chunk_sha256: Of each `CHUNK_BYTES` of it, in order; the last one may be shorter. Empty for an empty file.
    """

    path: str
    size_bytes: int
    sha256: str
    chunk_sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of one checkpoint, sorted by path."""

    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)

    def to_json(self) -> bytes:
        """Canonical bytes: the same files always give the same bytes."""
        files = [
            {"path": f.path, "size": f.size_bytes, "sha256": f.sha256, "chunks": list(f.chunk_sha256)}
            for f in self.files
        ]
        document = {"format": FORMAT, "chunk_bytes": CHUNK_BYTES, "files": files}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @property
    def digest(self) -> str:
        """sha256 of `to_json()`, 64 hex digits."""
        return hashlib.sha256(self.to_json()).hexdigest()


def build(entries: Iterable[FileEntry]) -> Manifest:
    """A manifest of `entries`, checked like one that arrives over the network."""
    return parse(Manifest(files=tuple(sorted(entries, key=lambda e: e.path))).to_json())


def parse(data: bytes, *, expected_digest: str | None = None) -> Manifest:
    """Read a manifest and refuse everything that could harm the reader.

    Raises:
        ManifestError: Another digest than expected, not our format or not in canonical form, paths that lead outside
            of the folder, are there twice, clash or fit on no disk, or hashes whose number does not match the size.
    """
    actual = hashlib.sha256(data).hexdigest()
    if expected_digest is not None and actual != expected_digest:
        raise ManifestError(
            f"manifest has digest {actual[:12]}…, the registry says {expected_digest[:12]}…: it was changed after "
            "publishing and nothing of it was loaded; publish the checkpoint again"
        )
    try:
        document: Any = json.loads(data)
        if document["format"] != FORMAT or document["chunk_bytes"] != CHUNK_BYTES:
            raise ManifestError(f"manifest of format {document['format']!r}: this Relay reads format {FORMAT}; upgrade")
        entries = tuple(_entry(item) for item in document["files"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"manifest cannot be read ({error!r}): publish the checkpoint again") from error
    _check_paths([entry.path for entry in entries])
    found = Manifest(files=tuple(sorted(entries, key=lambda e: e.path)))
    if found.to_json() != data:
        # Its digest would be another one as soon as somebody writes it down again, as the cache does.
        raise ManifestError(
            "manifest is not in canonical form (sorted by path, no space, nothing else in it): nothing was loaded; "
            "publish the checkpoint again"
        )
    return found


def _check_paths(paths: Sequence[str]) -> None:
    """Refuse files that cannot lie in one folder on every disk, and more of them than any checkpoint has."""
    if len(paths) > MAX_FILES:
        raise ManifestError(f"manifest names {len(paths)} files, more than {MAX_FILES}: nothing was loaded")
    if not paths or len(set(paths)) != len(paths):
        raise ManifestError("manifest names no file, or one file twice: publish the checkpoint again")
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if clash := sorted(folders & set(paths)):
        raise ManifestError(f"manifest names {clash[0]!r} as a file and as a folder: publish the checkpoint again")


def _entry(item: Mapping[str, Any]) -> FileEntry:
    path, size, chunks = item["path"], item["size"], tuple(item["chunks"])
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or "\\" in path
        or "\0" in path
        or str(PurePosixPath(path)) != path
    ):
        raise ManifestError(f"manifest names the unsafe path {path!r}: nothing was loaded")
    if not _is_name(path, MAX_PATH_BYTES) or not all(_is_name(part, MAX_NAME_BYTES) for part in parts):
        raise ManifestError(f"manifest names {path[:80]!r}, which is no name for a file on disk: nothing was loaded")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or len(chunks) != num_chunks(size):
        raise ManifestError(f"manifest has {len(chunks)} chunk hashes for {path!r} of {size} bytes")
    if not all(_is_sha256(text) for text in (item["sha256"], *chunks)):
        raise ManifestError(f"manifest has a malformed hash for {path!r}")
    if len(chunks) == 1 and chunks[0] != item["sha256"]:
        raise ManifestError(f"manifest contradicts itself about {path!r}")
    return FileEntry(path=path, size_bytes=size, sha256=item["sha256"], chunk_sha256=chunks)


def _is_name(text: str, max_bytes: int) -> bool:
    try:
        return len(text.encode()) <= max_bytes
    except UnicodeEncodeError:
        return False


def is_digest(text: object) -> bool:
    """Whether `text` can be the digest of a manifest, and so the name of a folder."""
    return _is_sha256(text)


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def num_chunks(size_bytes: int) -> int:
    """How many chunks a file of that size has."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_span(index: int, size_bytes: int) -> tuple[int, int]:
    """Start and end (exclusive) of chunk `index`, counted from 0, in bytes."""
    start = index * CHUNK_BYTES
    return start, min(start + CHUNK_BYTES, size_bytes)
