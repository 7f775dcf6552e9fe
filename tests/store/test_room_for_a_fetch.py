"""Old versions make room before a new one is fetched: a disk that is smaller than the bound stops nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry_hooks import last_good
from registry_hooks.blobs import RESERVE_BYTES, Bound
from registry_hooks.errors import CacheError, StoreError
from registry_hooks.last_good import LastGood

KIB = 1024
PLENTY = Bound(max_bytes=10**12)


@pytest.fixture
def disk(shop: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the disk so large, in bytes besides what is always left free."""

    def of_size(num_bytes: int) -> None:
        def usage(path: Path) -> Any:
            return SimpleNamespace(free=num_bytes + RESERVE_BYTES - shop.cache.size_bytes())

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return of_size


def test_a_version_that_finds_no_place_on_the_disk_gets_that_of_the_oldest(
    shop: Any, disk: Callable[[int], None]
) -> None:
    cache = shop.cache
    kept, old = (shop.fetch(shop.publish(shop.files(100 * KIB)), cache=cache) for _ in range(2))
    disk(250 * KIB)

    new = shop.fetch(
        shop.publish(shop.files(100 * KIB)), cache=cache, bound=Bound(max_bytes=10**12, keep={kept.digest})
    )

    assert shop.complete == sorted([kept.digest, new.digest])
    assert not old.directory.exists()


def test_the_bound_holds_while_a_version_arrives(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, largest = shop.cache, [0]
    real = os.pwrite

    def watch(*arguments: Any) -> int:
        largest[0] = max(largest[0], cache.size_bytes())
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", watch)
    for _ in range(4):
        shop.fetch(shop.publish(shop.files(100 * KIB)), cache=cache, bound=Bound(max_bytes=250 * KIB))

    assert 200 * KIB < largest[0] <= 250 * KIB


def test_files_that_the_new_version_shares_with_an_old_one_stay(shop: Any, disk: Callable[[int], None]) -> None:
    cache, files = shop.cache, shop.files(100 * KIB)
    shop.fetch(shop.publish(files), cache=cache)
    disk(150 * KIB)
    changed = {**files, "model/generation_config.json": os.urandom(100 * KIB)}

    new = shop.fetch(shop.publish(changed), cache=cache, bound=Bound(max_bytes=10**12))

    assert new.downloaded_bytes == 100 * KIB
    assert (new.directory / "model.safetensors").read_bytes() == files["model/model.safetensors"]


def test_what_can_never_fit_evicts_nothing(shop: Any, disk: Callable[[int], None]) -> None:
    cache = shop.cache
    kept, old = (shop.fetch(shop.publish(shop.files(100 * KIB)), cache=cache) for _ in range(2))
    disk(250 * KIB - RESERVE_BYTES)

    with pytest.raises(CacheError, match="nothing was removed"):
        shop.fetch(shop.publish(shop.files(200 * KIB)), cache=cache, bound=Bound(max_bytes=1, keep={kept.digest}))
    assert shop.complete == sorted([kept.digest, old.digest])


def test_a_disk_that_is_full_after_all_is_tried_once_more_with_more_room(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = shop.cache
    shop.fetch(shop.publish(shop.files(100 * KIB)), cache=cache)
    real, tries = os.posix_fallocate, list[int]()

    def once_full(fd: int, offset: int, length: int) -> None:
        tries.append(length)
        if len(tries) == 1:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        real(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", once_full)
    new = shop.fetch(shop.publish(shop.files(50 * KIB)), cache=cache, bound=PLENTY)

    assert shop.complete == [new.digest]


def test_a_full_disk_on_which_nothing_can_go_is_an_error_after_one_try(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    def full(fd: int, offset: int, length: int) -> None:
        tries.append(length)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="full"):
        shop.fetch(shop.publish(shop.files(KIB)), bound=PLENTY)

    assert len(tries) == 1


def test_every_models_last_good_version_is_known(shop: Any) -> None:
    folder = shop.cache.root
    version = shop.publish(shop.files(KIB))
    for name, digest in (("one", "1" * 64), ("team/two", "2" * 64)):
        last_good.remember(
            folder, name, LastGood(version=version, alias="Production", digest=digest, attested=True, score=None)
        )
    (folder / "last_good" / "broken.json").write_bytes(b"[]")

    assert last_good.digests(folder) == {"1" * 64, "2" * 64}
