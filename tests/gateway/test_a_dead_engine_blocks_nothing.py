"""An engine that died and cannot be restarted must not keep the gateway from following the alias."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from registry_hooks import contract
from registry_hooks.errors import StoreError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings
from server.gateway.control import Watcher
from server.gateway.journal import Journal
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.gateway.outcome import describe
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


def a_slot(version: ModelVersion, *, alive: bool) -> Slot:
    checkpoint = Checkpoint(version=version, digest="d" * 64, directory="", attested=True, size_bytes=1)
    return Slot(checkpoint=checkpoint, engine=cast("Engine", Stand(alive)), loaded_at=datetime.now(UTC))


class BrokenCache:
    """A loader that can bring up what is fetched anew, and nothing that was fetched before."""

    def __init__(self, source: MemoryRegistry, lineup: LineUp) -> None:
        self.source, self.lineup = source, lineup
        self.engines = SimpleNamespace(keep_spare=lambda: None, retire=lambda slot, lineup: None)

    def start_cached(self, checkpoint: Checkpoint, reload: Any) -> Slot:
        raise StoreError("no longer whole in the cache")

    def bring_up(self, reload: Any, superseded: Any) -> Slot:
        return a_slot(reload.version, alive=True)

    def last_good(self) -> None:
        return None

    def remember(self, slot: Slot) -> None:
        """Nothing."""


def test_the_alias_is_followed_although_the_dead_engine_cannot_be_restarted() -> None:
    settings, registry = Settings(), MemoryRegistry()
    name = settings.registry.name
    for number in (1, 2):
        registry.add_version(name, artifact_uri=f"s3://b/{number}", tags={contract.TAG_MANIFEST: f"{number}" * 64})
    registry.set_alias(name, "Production", 1)
    lineup = LineUp(name, "Production")
    journal = Journal(settings, lineup, Reporter(registry, heartbeat_s=60), "http://x")
    watcher = Watcher(settings, cast("Any", BrokenCache(registry, lineup)), journal)
    lineup.flip(a_slot(registry.get_version(name, 1), alive=False))
    watcher.turn()
    dead = describe(lineup, journal.status, asked_at=datetime.now(UTC))
    registry.set_alias(name, "Production", 2)
    watcher.turn()
    served = lineup.current

    assert dead.status != "unchanged"
    assert served is not None
    assert served.checkpoint.version.version == 2
