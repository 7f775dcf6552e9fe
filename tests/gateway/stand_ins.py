"""A control loop on an in-memory registry, whose engines and loader do as the test says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from registry_hooks import contract
from registry_hooks.memory import MemoryRegistry
from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings
from server.gateway.control import Watcher
from server.gateway.journal import Journal
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.gateway.reporting import Reporter
from server.launcher import Engine


class Stand:
    """An engine that is alive or dead as the test says."""

    def __init__(self, alive: bool) -> None:
        self.alive = alive
        self.ready = SimpleNamespace(vram_bytes=0, rss_bytes=0)

    def is_alive(self) -> bool:
        return self.alive

    def when_dead(self, callback: Any) -> None:
        """Nothing: it does not die by itself."""

    def last_words(self) -> str:
        return "killed"

    def stop(self) -> None:
        self.alive = False


def a_slot(version: ModelVersion, *, alive: bool = True) -> Slot:
    checkpoint = Checkpoint(version=version, digest="d" * 64, directory="", attested=True, size_bytes=1)
    return Slot(checkpoint=checkpoint, engine=cast("Engine", Stand(alive)), loaded_at=datetime.now(UTC))


class StandInLoader:
    """A loader that brings up whatever is asked for.

    Attributes:
        meanwhile: Called while a version is brought up, with what a loader asks whether it is still wanted.
        started: The slots that it brought up.
        retired: Those that left the line-up.
    """

    def __init__(self, source: MemoryRegistry, lineup: LineUp) -> None:
        self.source, self.lineup = source, lineup
        self.meanwhile: Callable[[Callable[[], bool]], None] = lambda superseded: None
        self.started: list[Slot] = []
        self.retired: list[Slot] = []
        self.engines = SimpleNamespace(
            keep_spare=lambda: None,
            bound_logs=lambda: None,
            retire=lambda slot, lineup: self.retired.append(slot),
        )

    def bring_up(
        self, reload: Any, superseded: Callable[[], bool], *, meanwhile: Callable[[], None] = lambda: None
    ) -> Slot:
        self.meanwhile(superseded)
        self.started.append(a_slot(reload.version))
        return self.started[-1]

    def start_cached(self, checkpoint: Checkpoint, reload: Any, cancelled: Callable[[], bool]) -> Slot:
        return self.bring_up(reload, cancelled)

    def start_again(self, checkpoint: Checkpoint, reload: Any, cancelled: Callable[[], bool]) -> Slot:
        return self.start_cached(checkpoint, reload, cancelled)

    def last_good(self) -> Checkpoint | None:
        return None

    def remember(self, slot: Slot) -> None:
        """Nothing."""

    def let_go(self) -> None:
        """Nothing."""


class World:
    """A registered model with versions 1, 2 and 3, its alias at 1, and a control loop that is turned by hand."""

    def __init__(self, loader: Callable[[MemoryRegistry, LineUp], StandInLoader] = StandInLoader, **serve: Any) -> None:
        settings = Settings.model_validate({"serve": serve})
        self.name, self.registry = settings.registry.name, MemoryRegistry()
        for number in (1, 2, 3):
            tags = {contract.TAG_MANIFEST: f"{number}" * 64}
            self.registry.add_version(self.name, artifact_uri=f"s3://b/{number}", tags=tags)
        self.move_alias(1)
        self.lineup = LineUp(self.name, "Production")
        self.journal = Journal(settings, self.lineup, Reporter(self.registry, heartbeat_s=60), "http://x")
        self.loader = loader(self.registry, self.lineup)
        self.watcher = Watcher(settings, cast("Any", self.loader), self.journal)

    def move_alias(self, number: int) -> None:
        self.registry.set_alias(self.name, "Production", number)

    def slot_of(self, number: int, *, alive: bool = True) -> Slot:
        return a_slot(self.registry.get_version(self.name, number), alive=alive)

    @property
    def served(self) -> int | None:
        current = self.lineup.current
        return current.checkpoint.version.version if current is not None else None
