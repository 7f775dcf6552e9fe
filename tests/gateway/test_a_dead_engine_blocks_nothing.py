"""An engine that died must not keep the gateway from following the alias, whoever it was."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from registry_hooks.blobs import BlobCache
from registry_hooks.errors import StoreError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.memory_store import MemoryStore
from registry_hooks.settings import Settings
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.gateway.outcome import describe
from server.gateway.reloading import Loader
from tests.gateway.stand_ins import Stand, StandInLoader, World, a_slot


class BrokenCache(StandInLoader):
    """A loader that can bring up what is fetched anew, and nothing that was fetched before."""

    def start_cached(self, checkpoint: Checkpoint, reload: Any, cancelled: Any) -> Slot:
        raise StoreError("no longer whole in the cache")


def test_the_alias_is_followed_although_the_dead_engine_cannot_be_restarted() -> None:
    world = World(BrokenCache)
    world.lineup.flip(world.slot_of(1, alive=False))
    world.watcher.turn()
    dead = describe(world.lineup, world.journal.status, asked_at=datetime.now(UTC))
    world.move_alias(2)
    world.watcher.turn()

    assert dead.status != "unchanged"
    assert world.served == 2


def test_a_warm_engine_that_died_is_retired_at_the_next_turn() -> None:
    world = World()
    dead = world.slot_of(2, alive=False)
    world.lineup.flip(dead)
    dead.engine.alive = True  # type: ignore[attr-defined]
    world.lineup.flip(world.slot_of(1))
    warm = world.lineup.previous
    dead.engine.alive = False  # type: ignore[attr-defined]
    world.watcher.turn()

    assert warm is dead
    assert (world.lineup.previous, world.loader.retired) == (None, [dead])


class RealFetches(Loader):
    """The real loader, but for the engines."""

    def start_again(self, checkpoint: Checkpoint, reload: Any, cancelled: Any) -> Slot:
        return a_slot(checkpoint.version)

    def let_go(self) -> None:
        """Nothing."""


def test_an_engine_that_dies_while_another_version_is_fetched_is_restarted_at_once(tmp_path: Path) -> None:
    store, seen = MemoryStore(), list[Any]()

    def loader(source: MemoryRegistry, lineup: LineUp) -> Any:
        engines = cast("Any", SimpleNamespace(retire=lambda slot, lineup: None))
        cache, settings = BlobCache(tmp_path), Settings()
        return RealFetches(settings=settings, source=source, reader=store, cache=cache, engines=engines, lineup=lineup)

    def slow_read(uri: str, start: int) -> None:
        current = world.lineup.current
        assert current is not None
        cast("Stand", current.engine).alive = False
        deadline = time.monotonic() + 5
        while world.lineup.current is current and time.monotonic() < deadline:
            time.sleep(0.01)
        while world.journal.status.loading is None and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append((world.lineup.current is not current, world.journal.status.loading))

    world = World(loader)
    world.lineup.flip(world.slot_of(1))
    world.move_alias(2)
    store.before_read = slow_read
    world.watcher.turn()

    assert seen == [(True, 2)]
    assert world.served == 1
    assert world.journal.status.loading is None
