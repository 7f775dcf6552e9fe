"""When a server goes, every engine ends: those that answer, those that retire and one that is just starting."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import psutil
import pytest

from registry_hooks.errors import StartCancelledError
from registry_hooks.settings import Settings
from server import launcher
from server.gateway.departure import end_engines
from server.gateway.engines import EngineRoom
from tests.gateway.stand_ins import World

NEVER_READY = (sys.executable, "-c", "import time; time.sleep(602)")


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "time.sleep(602)" in " ".join(one.cmdline())]


def test_streams_of_a_retiring_engine_end_like_those_of_the_others() -> None:
    world = World()
    slots = [world.slot_of(number) for number in (1, 2, 3)]
    for slot in slots:
        world.lineup.flip(slot)
        slot.in_flight = 1
    end_engines(world.lineup, 0.01)

    assert [slot.leaving for slot in slots] == ["shutdown"] * 3
    assert not any(slot.is_alive() for slot in slots)


def test_an_engine_that_is_starting_ends_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "ENGINE", NEVER_READY)
    engines = EngineRoom(Settings(), tmp_path)
    said: list[BaseException] = []

    def start() -> None:
        try:
            engines.start(World().slot_of(1).checkpoint, lambda: False)
        except StartCancelledError as error:
            said.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    while not children():
        starting.join(0.02)
    engines.close()
    starting.join(30)

    assert len(said) == 1
    assert not children()


def test_nothing_starts_once_the_server_is_going(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "ENGINE", NEVER_READY)
    engines = EngineRoom(Settings(), tmp_path)
    engines.close()

    with pytest.raises(StartCancelledError):
        engines.start(World().slot_of(1).checkpoint, lambda: False)
    assert not children()
