"""Files in the cache that somebody changed on disk are never served as verified: they are fetched anew."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from registry_hooks import attesting, contract, manifest
from registry_hooks.blobs import BlobCache
from registry_hooks.errors import CacheError
from registry_hooks.fetching import Fetched, cached
from registry_hooks.records import ModelVersion

WEIGHTS = "model.safetensors"


def spoil(path: Path, *, keep_time: bool = False) -> None:
    """One bit of the file, size and inode as before."""
    stat = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns if keep_time else stat.st_mtime_ns + 1))


def found(shop: Any, version: ModelVersion) -> Fetched | None:
    golden = version.tags[contract.TAG_GOLDEN]
    return cached(shop.cache, str(version.digest), attested=True, golden_sha256=golden)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_was_changed_on_disk_is_not_served_and_is_fetched_again(shop: Any, name: str) -> None:
    files = shop.files()
    version = shop.publish(files)
    spoil(shop.fetch(version).directory / name)

    in_cache, fetched = found(shop, version), shop.fetch(version)

    assert in_cache is None
    assert fetched.downloaded_bytes == len(files[f"model/{name}"])
    assert {path: (fetched.directory.parent / path).read_bytes() for path in files} == files


def test_a_small_file_is_hashed_each_time_whatever_its_times_say(shop: Any) -> None:
    version = shop.publish(shop.files())
    spoil(shop.fetch(version).directory / "config.json", keep_time=True)

    assert found(shop, version) is None


def test_golden_answers_that_were_emptied_are_not_a_check_that_is_left_out(shop: Any) -> None:
    version = shop.publish(shop.files())
    golden = shop.fetch(version).directory.parent / contract.GOLDEN_FILE
    golden.chmod(0o600)
    golden.write_bytes(b"")

    in_cache, fetched = found(shop, version), shop.fetch(version)

    assert in_cache is None
    assert fetched.golden == shop.golden


def test_a_file_that_another_version_left_changed_on_disk_is_not_taken_over(shop: Any) -> None:
    files = shop.files()
    spoil(shop.fetch(shop.publish(files)).directory / WEIGHTS)
    other = {**files, "model/config.json": b'{"architectures": []}'}

    fetched = shop.fetch(shop.publish(other))

    assert (fetched.directory / WEIGHTS).read_bytes() == files[f"model/{WEIGHTS}"]


def test_large_files_are_hashed_again_only_when_they_differ_from_their_note(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, hashed = shop.publish(shop.files()), list[str]()
    weights = shop.fetch(version).directory / WEIGHTS
    has_bytes = attesting.has_bytes

    def noting(path: Path, entry: manifest.FileEntry) -> bool:
        hashed.append(path.name)
        return has_bytes(path, entry)

    monkeypatch.setattr(attesting, "has_bytes", noting)
    assert found(shop, version) is not None
    untouched = WEIGHTS in hashed
    os.utime(weights)
    assert found(shop, version) is not None
    touched = hashed.count(WEIGHTS)
    assert found(shop, version) is not None

    assert (untouched, touched, hashed.count(WEIGHTS)) == (False, 1, 1)


@pytest.mark.parametrize("text", [b"", b"[", b"[1]", b'{"model/model.safetensors": 1}'])
def test_a_note_that_cannot_be_read_is_no_note(shop: Any, text: bytes) -> None:
    version = shop.publish(shop.files())
    (shop.fetch(version).directory.parent / attesting.NOTE).write_bytes(text)

    assert found(shop, version) is not None


def test_what_is_on_a_disk_that_became_read_only_is_still_served(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = shop.publish(shop.files(manifest.CHUNK_BYTES + 1))
    folder = shop.fetch(version).directory.parent
    (folder / attesting.NOTE).unlink()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for owner, name in ((os, "utime"), (os, "replace"), (Path, "touch"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, refuse)

    assert found(shop, version) is not None


def test_a_cache_folder_that_cannot_be_made_is_said_with_its_name() -> None:
    with pytest.raises(CacheError, match=r"/proc/nothing.*serve\.cache_dir"):
        BlobCache(Path("/proc/nothing"))
