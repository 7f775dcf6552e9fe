"""An engine that died must not keep the gateway from following the alias, whoever it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from registry_hooks.errors import StoreError
from server.gateway.lineup import Checkpoint, Slot
from server.gateway.outcome import describe
from tests.gateway.stand_ins import StandInLoader, World


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
