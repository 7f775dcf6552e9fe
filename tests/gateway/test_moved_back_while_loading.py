"""A person who moves the alias back while a version loads is heard before anybody is answered by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from registry_hooks.errors import EngineGoneError, StartCancelledError
from tests.gateway.stand_ins import World


def test_a_move_back_during_start_and_checks_stops_the_version_before_it_serves() -> None:
    world = World(poll_s=3600)  # so that the last look is long ago
    world.watcher.turn()
    world.loader.meanwhile = lambda superseded: world.move_alias(1)
    world.move_alias(2)
    world.watcher.turn()

    assert world.served == 1
    assert world.loader.started[-1].checkpoint.version.version == 2
    assert not world.loader.started[-1].is_alive()
    assert world.journal.status.loading is None
    assert world.journal.status.last_reload is not None
    assert world.journal.status.last_reload.outcome == "superseded"


def test_a_long_start_hears_of_the_move_and_ends_early() -> None:
    world = World(poll_s=0.001)
    world.watcher.turn()
    heard: list[bool] = []

    def meanwhile(superseded: Callable[[], bool]) -> None:
        heard.append(superseded())
        world.move_alias(3)
        while not superseded():
            pass
        raise StartCancelledError("ended while it started")

    world.loader.meanwhile = meanwhile
    world.move_alias(2)
    world.watcher.turn()
    world.loader.meanwhile = lambda superseded: None
    after_the_move = world.served
    world.watcher.turn()

    assert heard == [False]
    assert (after_the_move, world.served) == (1, 3)


@pytest.mark.parametrize("registry", ["answers that there is no alias", "does not answer"])
def test_only_a_registry_that_answers_takes_a_version_back(registry: str) -> None:
    world = World()
    world.watcher.turn()

    def meanwhile(superseded: Callable[[], bool]) -> None:
        if registry == "does not answer":
            world.registry.down = True
        else:
            world.registry.delete_alias(world.name, "Production")

    world.loader.meanwhile = meanwhile
    world.move_alias(2)
    world.watcher.turn()

    assert world.served == (2 if registry == "does not answer" else 1)


def test_a_server_that_is_going_puts_nothing_into_service() -> None:
    world = World()
    world.loader.meanwhile = lambda superseded: world.watcher.stop()
    world.watcher.turn()

    assert world.served is None
    assert not world.loader.started[-1].is_alive()


def test_a_try_that_ended_with_the_server_is_no_failure_of_the_version() -> None:
    world = World()

    def meanwhile(superseded: Callable[[], bool]) -> None:
        world.watcher.stop()
        raise EngineGoneError("it was stopped while it was checked")

    world.loader.meanwhile = meanwhile
    world.watcher.turn()

    assert world.journal.status.last_reload is not None
    assert world.journal.status.last_reload.outcome == "superseded"
