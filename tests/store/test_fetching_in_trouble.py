"""A store that stutters, a full disk, another fetch at work: what had arrived counts, and nothing half is loadable."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from registry_hooks import file_lock, manifest
from registry_hooks.blobs import Bound
from registry_hooks.errors import (
    FetchCancelledError,
    RelayError,
    StoreError,
    StoreUnavailableError,
)
from registry_hooks.fetching import Fetched
from registry_hooks.memory_store import MemoryStore
from registry_hooks.ports import Check, no_check

MIB = 1024 * 1024


@pytest.mark.usefixtures("two_quick_attempts")
def test_a_store_that_goes_away_and_comes_back_costs_only_the_rest(shop: Any) -> None:
    version = shop.publish(shop.files())

    def fail_late(uri: str, start: int) -> None:
        if start >= 2 * manifest.CHUNK_BYTES:
            raise StoreUnavailableError("the store is down")

    shop.store.before_read = fail_late
    with pytest.raises(StoreUnavailableError, match="the store is down"):
        shop.fetch(version, num_connections=1)
    nothing_yet = list(shop.complete)
    shop.store.before_read = lambda uri, start: None
    fetched = shop.fetch(version)

    assert nothing_yet == []
    assert fetched.downloaded_bytes < fetched.size_bytes - 2 * manifest.CHUNK_BYTES + 100
    assert shop.complete == [version.digest]


def test_wrong_bytes_of_an_earlier_try_are_fetched_again(shop: Any) -> None:
    files = shop.files()
    version = shop.publish(files)
    shop.fetch(version)
    [blob] = [path for path in shop.blobs if path.stat().st_size > MIB]
    cache = shop.cache
    cache.evict(Bound(max_bytes=0))
    data = bytearray(files["model/model.safetensors"])
    data[manifest.CHUNK_BYTES] ^= 1
    cache.partial(blob.name).write_bytes(data)

    fetched = shop.fetch(version)

    assert fetched.downloaded_bytes < 2 * manifest.CHUNK_BYTES
    assert (fetched.directory / "model.safetensors").read_bytes() == files["model/model.safetensors"]


@pytest.mark.usefixtures("two_quick_attempts")
def test_one_silence_of_the_store_is_survived(shop: Any) -> None:
    silences = [True]

    def once(uri: str, start: int) -> None:
        if start and silences:
            silences.clear()
            raise StoreUnavailableError("silence")

    shop.store.before_read = once

    assert shop.fetch(shop.publish(shop.files())).attested


def test_a_cancelled_fetch_ends_and_keeps_what_had_arrived(shop: Any) -> None:
    version, told = shop.publish(shop.files()), list[int]()

    with pytest.raises(FetchCancelledError):
        shop.fetch(version, num_connections=1, progress=told.append, cancelled=lambda: sum(told) > manifest.CHUNK_BYTES)

    assert shop.complete == []
    assert shop.fetch(version).downloaded_bytes <= sum(map(len, shop.files().values())) - manifest.CHUNK_BYTES


def test_a_fetch_that_takes_too_long_ends(shop: Any) -> None:
    with pytest.raises(StoreUnavailableError, match="fetch_timeout_s"):
        shop.fetch(shop.publish(shop.files()), deadline_s=0.0)


@pytest.mark.parametrize("place", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_said_and_leaves_nothing(shop: Any, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    version = shop.publish(shop.files())
    monkeypatch.setattr(os, place, full)

    with pytest.raises(StoreError, match=r"disk of .* is full.*max_cache_bytes"):
        shop.fetch(version)
    assert (shop.complete, shop.blobs, shop.partials) == ([], [], [])


def test_two_fetches_into_one_cache_take_turns(shop: Any) -> None:
    version, results = shop.publish(shop.files()), list[Fetched | RelayError]()
    threads = [threading.Thread(target=lambda: results.append(shop.fetch(version))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    first, second = results
    assert isinstance(first, Fetched)
    assert isinstance(second, Fetched)
    assert first.directory == second.directory
    assert sorted([first.downloaded_bytes, second.downloaded_bytes])[0] == 0


def test_waiting_for_another_fetch_is_bounded(shop: Any) -> None:
    lock = shop.cache.try_fetch_lock()
    assert lock is not None

    with pytest.raises(StoreUnavailableError, match="fetch_timeout_s"):
        shop.fetch(shop.publish(shop.files()), deadline_s=0.2)
    os.close(lock)


class Dripping(MemoryStore):
    """Sends one byte now and then; gives up after some seconds, that the test may end."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of

    def read(self, uri: str, max_bytes: int, *, check: Check = no_check) -> bytes:
        self._drip(uri, check)
        return super().read(uri, max_bytes)

    def read_into(self, uri: str, start: int, buffer: memoryview, *, check: Check = no_check, **options: Any) -> None:
        self._drip(uri, check)
        super().read_into(uri, start, buffer, **options)

    def _drip(self, uri: str, check: Check) -> None:
        until = time.monotonic() + 5
        while uri.endswith(self.of) and time.monotonic() < until:
            check()
            time.sleep(0.01)


@pytest.mark.parametrize("path", ["manifest.json", "golden.json", "model.safetensors"])
def test_a_fetch_from_a_store_that_drips_ends_when_it_is_no_longer_wanted_or_time_is_up(shop: Any, path: str) -> None:
    shop.store = Dripping(of=path)
    version = shop.publish(shop.files(1000))
    begun = time.monotonic()

    with pytest.raises(FetchCancelledError):
        shop.fetch(version, cancelled=lambda: time.monotonic() - begun > 0.1)
    with pytest.raises(StoreUnavailableError, match="fetch_timeout_s"):
        shop.fetch(version, deadline_s=0.1)
    assert time.monotonic() - begun < 4


def test_a_cache_whose_lock_another_process_keeps_is_an_error_and_no_hang(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, now = shop.publish(shop.files(1000)), itertools.count()
    monkeypatch.setattr(file_lock, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda _: None))
    held = file_lock.try_exclusive(shop.cache.root / "lock")
    assert held is not None

    with pytest.raises(TimeoutError, match="lock"):
        shop.fetch(version)
    os.close(held)
