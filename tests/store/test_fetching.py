"""From a version in the store to a verified folder, or to a clear refusal with nothing loadable."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import Any

import pytest

from registry_hooks import contract, manifest
from registry_hooks.errors import (
    Blame,
    CorruptFileError,
    FileMissingError,
    ManifestError,
    NotACheckpointError,
    ObjectChangedError,
    ObjectMissingError,
    TruncatedObjectError,
)
from registry_hooks.fetching import cached
from registry_hooks.golden import GoldenItem, GoldenSet
from registry_hooks.manifest import Manifest
from registry_hooks.memory_store import MemoryStore


def test_a_fetched_folder_holds_the_published_bytes(shop: Any) -> None:
    files, told = shop.files(), list[int]()
    version = shop.publish(files)

    fetched = shop.fetch(version, progress=told.append)

    root = fetched.directory.parent
    assert fetched.directory.name == "model"
    assert {path: (root / path).read_bytes() for path in files} == files
    assert (fetched.digest, fetched.attested, fetched.golden) == (version.digest, True, shop.golden)
    assert fetched.size_bytes == sum(told) == sum(map(len, files.values()))
    assert shop.complete == [version.digest]
    assert shop.partials == []


def test_equal_files_travel_once(shop: Any) -> None:
    files = shop.files()
    fetched = shop.fetch(shop.publish(files))

    assert fetched.downloaded_bytes == fetched.size_bytes - len(files["components/tokenizer/tokenizer.json"])


def test_the_next_version_brings_only_what_differs(shop: Any) -> None:
    first = shop.files()
    shop.fetch(shop.publish(first))
    second = {**first, "model/model.safetensors": os.urandom(1000)}

    assert shop.fetch(shop.publish(second)).downloaded_bytes == 1000


def test_a_version_in_the_cache_needs_no_store(shop: Any) -> None:
    version, told = shop.publish(shop.files()), list[int]()
    first = shop.fetch(version)
    shop.store.down = True

    second = shop.fetch(version, progress=told.append)

    assert second == replace(first, downloaded_bytes=0, fetch_s=0.0, verify_s=0.0)
    assert sum(told) == second.size_bytes
    sha256 = version.tags[contract.TAG_GOLDEN]
    assert cached(shop.cache, first.digest, attested=True, golden_sha256=sha256) == second
    assert cached(shop.cache, "0" * 64, attested=True, golden_sha256=sha256) is None


@pytest.mark.parametrize("chunk", [0, 3])
def test_a_flipped_bit_is_refused_with_file_and_chunk_and_nothing_is_loadable(shop: Any, chunk: int) -> None:
    files = shop.files()
    version = shop.publish(files)
    data = bytearray(files["model/model.safetensors"])
    data[chunk * manifest.CHUNK_BYTES + 7] ^= 1
    shop.overwrite(version, "model/model.safetensors", bytes(data))

    with pytest.raises(CorruptFileError, match=rf"model\.safetensors has wrong bytes in chunk {chunk}"):
        shop.fetch(version)
    assert shop.complete == []
    assert shop.blobs == []
    assert not [path for path in shop.partials if path.stat().st_size == len(data)]


def test_a_bit_that_flips_on_the_way_is_asked_for_again(shop: Any) -> None:
    class Flaky(MemoryStore):
        flips = 1

        def read_into(self, uri: str, start: int, buffer: memoryview, **options: Any) -> None:
            super().read_into(uri, start, buffer, **options)
            if uri.endswith(".safetensors") and self.flips:
                self.flips -= 1
                buffer[0] ^= 1

    shop.store = Flaky()
    fetched = shop.fetch(shop.publish(shop.files()), num_connections=1)

    assert fetched.downloaded_bytes > fetched.size_bytes
    assert shop.complete == [fetched.digest]


def test_a_truncated_object_is_refused(shop: Any) -> None:
    files = shop.files()
    version = shop.publish(files)
    shop.overwrite(version, "model/model.safetensors", files["model/model.safetensors"][:-1])

    with pytest.raises(TruncatedObjectError, match="1 bytes early"):
        shop.fetch(version)
    assert shop.complete == []


def test_a_missing_file_is_named(shop: Any) -> None:
    version = shop.publish(shop.files())
    shop.store.delete(f"{version.artifact_uri}/model/model.safetensors")

    with pytest.raises(FileMissingError, match=r"artifacts/model/model\.safetensors"):
        shop.fetch(version)


@pytest.mark.parametrize("path", [contract.MANIFEST_FILE, contract.GOLDEN_FILE])
def test_a_companion_that_is_missing_beside_the_files_is_missed_by_the_version(shop: Any, path: str) -> None:
    version = shop.publish(shop.files())
    shop.store.delete(f"{version.artifact_uri}/{path}")

    with pytest.raises(FileMissingError, match=path):
        shop.fetch(version)


def test_a_store_that_has_nothing_of_a_version_may_be_the_wrong_store(shop: Any) -> None:
    published, logged = shop.publish(shop.files()), shop.put({})
    elsewhere = replace(published, artifact_uri="s3://relay/v7/artifacts")

    for version in (elsewhere, logged):
        with pytest.raises(ObjectMissingError, match=r"store\.endpoint_url") as caught:
            shop.fetch(version)
        assert caught.value.blame is Blame.STORE


def test_a_manifest_that_is_not_the_registrys_is_refused(shop: Any) -> None:
    version = shop.publish(shop.files())
    other = manifest.build([shop.describe("model/config.json", b"{}")])
    shop.overwrite(version, contract.MANIFEST_FILE, other.to_json())

    with pytest.raises(ManifestError, match="changed after publishing"):
        shop.fetch(version)
    assert shop.complete == []


def test_golden_answers_that_are_not_the_registrys_are_refused(shop: Any) -> None:
    version = shop.publish(shop.files())
    easier = GoldenSet(items=(GoldenItem(prompt="", token_logprobs=(0.0,), greedy=()),), device="cpu", dtype="float32")
    shop.overwrite(version, contract.GOLDEN_FILE, easier.to_json())

    with pytest.raises(ManifestError, match=r"golden\.json has digest"):
        shop.fetch(version)
    assert shop.complete == []


def test_the_same_files_with_new_golden_answers_take_the_new_ones(shop: Any) -> None:
    files = shop.files()
    shop.fetch(shop.publish(files))
    new = GoldenSet(items=(GoldenItem(prompt="x", token_logprobs=(-2.0,), greedy=()),), device="cuda", dtype="bfloat16")

    fetched = shop.fetch(shop.publish(files, new))

    assert fetched.golden == new
    assert fetched.downloaded_bytes == 0


@pytest.mark.parametrize(
    "path",
    ["../outside", "/etc/outside", "model/../../outside", "COMPLETE", "manifest.json", "golden.json", "COMPLETE/x"],
)
def test_a_manifest_cannot_write_outside_its_folder_or_over_the_caches_own_files(shop: Any, path: str) -> None:
    files = {"model/config.json": b"{}", path: b"harm"}
    entries = [shop.describe(name, data) for name, data in sorted(files.items())]
    crafted = Manifest(files=tuple(entries)).to_json()
    digest = hashlib.sha256(crafted).hexdigest()
    version = shop.put({**files, contract.MANIFEST_FILE: crafted}, {contract.TAG_MANIFEST: digest})

    with pytest.raises(ManifestError, match=r"unsafe|reserved"):
        shop.fetch(version)
    assert shop.complete == []
    assert list(shop.cache_dir.parent.rglob("outside")) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("model/config.json/x", "as a file and as a folder"),
        ("model/" + "a" * 256, "no name for a file"),
        ("model/" + "a/" * 600 + "b", "no name for a file"),
        ("model/\ud800", "no name for a file"),
    ],
)
def test_files_that_cannot_lie_in_one_folder_are_refused_before_any_is_fetched(shop: Any, path: str, says: str) -> None:
    entries = [shop.describe(name, b"{}") for name in sorted(["model/config.json", path])]
    crafted = Manifest(files=tuple(entries))
    version = shop.put({contract.MANIFEST_FILE: crafted.to_json()}, {contract.TAG_MANIFEST: crafted.digest})

    with pytest.raises(ManifestError, match=says):
        shop.fetch(version)


def test_a_manifest_in_another_form_than_ours_is_refused_at_once(shop: Any) -> None:
    version = shop.publish(shop.files())
    pretty = json.dumps(json.loads(shop.store.read(f"{version.artifact_uri}/manifest.json", 10**6)), indent=1).encode()
    shop.overwrite(version, contract.MANIFEST_FILE, pretty)
    tagged = replace(version, tags={contract.TAG_MANIFEST: hashlib.sha256(pretty).hexdigest()})

    with pytest.raises(ManifestError, match="canonical form"):
        shop.fetch(tagged)


@pytest.mark.parametrize("tag", ["", "../../outside", "0" * 63, "G" * 64])
def test_a_tag_that_is_no_digest_is_refused_and_touches_no_file(shop: Any, tag: str) -> None:
    outside = shop.cache_dir.parent / "outside"
    outside.mkdir()
    (outside / "COMPLETE").touch()
    version = replace(shop.publish(shop.files()), tags={contract.TAG_MANIFEST: tag})

    with pytest.raises(ManifestError, match="no digest"):
        shop.fetch(version)
    assert cached(shop.cache, tag, attested=True, golden_sha256=None) is None
    assert (outside / "COMPLETE").exists()


def test_a_file_of_others_that_is_written_anew_while_it_is_read_is_never_mixed(shop: Any) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": os.urandom(2 * manifest.CHUNK_BYTES)}
    version = shop.put(files)

    def overwrite(uri: str, start: int) -> None:
        if start:
            shop.overwrite(version, "model.safetensors", os.urandom(2 * manifest.CHUNK_BYTES))

    shop.store.before_read = overwrite

    with pytest.raises(ObjectChangedError):
        shop.fetch(version, num_connections=1)
    assert shop.complete == []


def test_a_manifest_that_contradicts_itself_cannot_poison_another_version(shop: Any) -> None:
    good = shop.files(2 * manifest.CHUNK_BYTES)
    bad = shop.files(2 * manifest.CHUNK_BYTES)
    name = "model/model.safetensors"
    lie = replace(shop.describe(name, bad[name]), sha256=hashlib.sha256(good[name]).hexdigest())
    crafted = manifest.build([lie, shop.describe("model/config.json", good["model/config.json"])])
    shop.fetch(shop.put({**bad, "manifest.json": crafted.to_json()}, {contract.TAG_MANIFEST: crafted.digest}))

    fetched = shop.fetch(shop.publish(good))

    assert (fetched.directory / "model.safetensors").read_bytes() == good[name]


def test_a_manifest_without_a_model_is_refused(shop: Any) -> None:
    with pytest.raises(NotACheckpointError, match="names no model"):
        shop.fetch(shop.publish({"readme.md": b"hello"}))
