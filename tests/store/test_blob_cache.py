"""The cache on disk: whole or not at all, bounded, and shared without harm."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest

from registry_hooks import attesting, blobs, contract
from registry_hooks.blobs import MARKER, STALE_S, BlobCache, Bound
from registry_hooks.last_good import LastGood, recall, remember
from registry_hooks.records import ModelVersion

KIB = 1024


def age(cache: BlobCache, digest: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.root / "checkpoints" / digest / MARKER, (then, then))


def test_the_marker_is_written_last(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[str]()
    real = blobs.write_atomically

    def watch(path: Path, data: bytes) -> None:
        files = {str(p.relative_to(path.parent)) for p in path.parent.rglob("*") if p.is_file()}
        written.append(f"{path.name} after {len(files)} files")
        real(path, data)

    for module in (blobs, attesting):
        monkeypatch.setattr(module, "write_atomically", watch)
    shop.fetch(shop.publish(shop.files(KIB)))

    assert written == [
        "manifest.json after 4 files",
        "VERIFIED after 5 files",
        "golden.json after 6 files",
        "COMPLETE after 7 files",
    ]


def test_a_folder_without_its_marker_is_never_whole(shop: Any) -> None:
    version = shop.publish(shop.files(KIB))
    fetched = shop.fetch(version)
    (fetched.directory.parent / MARKER).unlink()

    assert shop.cache.checkpoint(fetched.digest) is None
    assert shop.fetch(version).directory == fetched.directory
    assert shop.complete == [fetched.digest]


@pytest.mark.parametrize("harm", ["remove a file", "truncate a file", "change the manifest"])
def test_a_folder_that_somebody_tidied_up_is_fetched_again(shop: Any, harm: str) -> None:
    files = shop.files(KIB)
    version = shop.publish(files)
    folder = shop.fetch(version).directory.parent
    if harm == "remove a file":
        (folder / "model/config.json").unlink()
    elif harm == "truncate a file":
        os.truncate(folder / "model/model.safetensors", 10)
    else:
        (folder / contract.MANIFEST_FILE).write_bytes(b"{}")

    again = shop.fetch(version)

    assert (again.directory / "model.safetensors").read_bytes() == files["model/model.safetensors"]
    assert (again.directory / "config.json").read_bytes() == files["model/config.json"]


def test_blobs_are_read_only(shop: Any) -> None:
    fetched = shop.fetch(shop.publish(shop.files(KIB)))

    assert {path.stat().st_mode & 0o222 for path in fetched.directory.iterdir()} == {0}


def test_what_was_not_used_for_longest_is_evicted_first(shop: Any) -> None:
    cache = shop.cache
    digests = [shop.fetch(shop.publish(shop.files(100 * KIB)), cache=cache).digest for _ in range(3)]
    for digest, seconds in zip(digests, (10, 30, 20), strict=True):
        age(cache, digest, seconds)

    removed = cache.evict(Bound(max_bytes=250 * KIB))

    assert shop.complete == sorted([digests[0], digests[2]])
    assert removed == 100 * KIB
    assert cache.size_bytes() <= 250 * KIB


def test_what_is_kept_is_never_evicted_even_over_the_bound(shop: Any) -> None:
    cache = shop.cache
    kept, other = (shop.fetch(shop.publish(shop.files(100 * KIB)), cache=cache) for _ in range(2))
    age(cache, kept.digest, 1000)

    cache.evict(Bound(max_bytes=0, keep={kept.digest}))

    assert shop.complete == [kept.digest]
    assert (kept.directory / "model.safetensors").stat().st_size == 100 * KIB
    assert not other.directory.exists()


def test_a_file_that_two_checkpoints_share_stays_for_the_other(shop: Any) -> None:
    cache, files = shop.cache, shop.files(100 * KIB)
    kept = shop.fetch(shop.publish(files), cache=cache)
    shop.fetch(shop.publish({**files, "model/config.json": b'{"other": 1}'}), cache=cache)

    cache.evict(Bound(max_bytes=0, keep={kept.digest}))

    assert (kept.directory / "model.safetensors").read_bytes() == files["model/model.safetensors"]
    assert len(shop.blobs) == 3


def test_what_another_process_uses_is_not_evicted(shop: Any) -> None:
    mine, theirs = shop.cache, shop.cache
    fetched = shop.fetch(shop.publish(shop.files(KIB)), cache=theirs)

    mine.evict(Bound(max_bytes=0))
    while_in_use = list(shop.complete)
    theirs.evict(Bound(max_bytes=0))

    assert while_in_use == [fetched.digest]
    assert (shop.complete, shop.blobs) == ([], [])


def test_versions_that_are_no_longer_used_hold_no_descriptor_and_may_be_evicted_by_others(shop: Any) -> None:
    mine, theirs = shop.cache, shop.cache
    before = len(os.listdir("/dev/fd"))
    served = [shop.fetch(shop.publish(shop.files(KIB)), cache=theirs).digest for _ in range(5)]

    theirs.use_only({served[-1]})
    held = len(os.listdir("/dev/fd")) - before
    mine.evict(Bound(max_bytes=0))

    assert held == 1
    assert shop.complete == [served[-1]]


def test_leftovers_of_fetches_go_after_a_day_or_when_room_is_needed(shop: Any) -> None:
    cache = shop.cache
    old, new = cache.partial("0" * 64), cache.partial("1" * 64)
    for path in (old, new):
        path.write_bytes(b"x" * KIB)
    os.utime(old, (time.time() - STALE_S - 10,) * 2)

    cache.evict(Bound(max_bytes=100 * KIB))
    after_a_day = list(shop.partials)
    cache.evict(Bound(max_bytes=0))

    assert after_a_day == [new]
    assert shop.partials == []


def test_eviction_leaves_a_fetch_in_progress_alone(shop: Any) -> None:
    cache = shop.cache
    arriving = cache.partial("0" * 64)
    arriving.write_bytes(b"x" * KIB)
    lock = cache.try_fetch_lock()
    assert lock is not None

    cache.evict(Bound(max_bytes=0))

    assert shop.partials == [arriving]
    os.close(lock)


def test_a_folder_that_a_crash_left_half_made_is_removed(shop: Any) -> None:
    cache = shop.cache
    half = cache.root / "checkpoints" / ("a" * 64)
    half.mkdir()
    cache.partial("b" * 64).write_bytes(b"x")

    cache.evict(Bound(max_bytes=0))

    assert not half.exists()


RECORD = LastGood(
    version=ModelVersion(
        name="team/line",
        version=3,
        run_id="r",
        model_id="m-1",
        artifact_uri="s3://b/p",
        status="PENDING_REGISTRATION",
        tags={"relay.step": "20"},
        description="the one",
        copied_tags=frozenset({"relay.verdict"}),
        stage="Production",
    ),
    alias="Production",
    digest="d" * 64,
    attested=True,
    score=0.25,
)


def test_the_last_good_version_is_recalled_after_a_restart(tmp_path: Path) -> None:
    remember(tmp_path, "team/line", RECORD)
    bare = ModelVersion(name="", version=0, run_id=None, model_id=None, artifact_uri="")

    assert all(getattr(RECORD.version, f.name) != getattr(bare, f.name) for f in dataclasses.fields(bare))
    assert recall(tmp_path, "team/line") == RECORD
    assert recall(tmp_path, "line") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 99}', b'{"format": 1, "version": {}}', b"\xff"])
def test_a_damaged_record_is_no_record(tmp_path: Path, data: bytes) -> None:
    remember(tmp_path, "m", RECORD)
    (tmp_path / "last_good" / "m.json").write_bytes(data)

    assert recall(tmp_path, "m") is None
