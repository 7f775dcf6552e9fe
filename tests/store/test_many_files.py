"""A checkpoint of very many files is fetched with few descriptors, or refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from registry_hooks import manifest
from registry_hooks.errors import ManifestError
from registry_hooks.manifest import FileEntry
from registry_hooks.transfer import MAX_OPEN_FILES


def test_many_files_are_fetched_with_few_descriptors(shop: Any) -> None:
    many = {f"model/part-{number}.json": str(number).encode() for number in range(3 * MAX_OPEN_FILES)}
    version = shop.publish({**shop.files(), **many})
    before, most = len(os.listdir("/proc/self/fd")), list[int]()
    shop.store.before_read = lambda uri, start: most.append(len(os.listdir("/proc/self/fd")))

    fetched = shop.fetch(version)

    assert {path: (fetched.directory.parent / path).read_bytes() for path in many} == many
    assert max(most) - before <= MAX_OPEN_FILES + 8


def test_more_files_than_any_checkpoint_has_are_refused() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    entries = [
        FileEntry(path=f"model/{number}", size_bytes=0, sha256=empty, chunk_sha256=())
        for number in range(manifest.MAX_FILES + 1)
    ]

    with pytest.raises(ManifestError, match="more than 10000"):
        manifest.build(entries)
