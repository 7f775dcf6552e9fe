"""Hashes of files, whole and by chunk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.hashing import hash_files
from registry_hooks import manifest
from registry_hooks.errors import CorruptFileError


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 5000])
def test_every_file_has_its_own_hash_and_those_of_its_chunks(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "CHUNK_BYTES", 1000)
    data = bytes(i * 7 % 256 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    told: list[int] = []
    [entry] = hash_files(tmp_path, ["file"], prefix="model", progress=told.append)
    chunks = [data[start : start + 1000] for start in range(0, size, 1000)]

    assert (entry.path, entry.size_bytes) == ("model/file", size)
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert entry.chunk_sha256 == tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks)
    assert sum(told) == size


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="gone"):
        hash_files(tmp_path, ["gone"], prefix="model", progress=lambda num_bytes: None)
