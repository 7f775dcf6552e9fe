"""Whatever a try to bring a version up ends in, it is told and tried later each time; nothing stays half done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from registry_hooks import contract
from registry_hooks.errors import (
    CorruptFileError,
    DeclinedError,
    EngineStartError,
    RegistryUnavailableError,
    RelayError,
    StoreUnavailableError,
)
from registry_hooks.memory import MemoryRegistry
from registry_hooks.records import ModelVersion, RunRecord
from server.gateway import control, watching
from server.gateway.lineup import Checkpoint, LineUp, Slot
from tests.gateway.stand_ins import StandInLoader, World


class PlainReporter:
    """Writes at once."""

    def __init__(self, sink: MemoryRegistry) -> None:
        self._sink = sink

    def post(self, what: str, write: Callable[[Any], object]) -> None:
        write(self._sink)


class FailingLoader(StandInLoader):
    """Its tries end as the test says."""

    def __init__(self, source: MemoryRegistry, lineup: LineUp) -> None:
        super().__init__(source, lineup)
        self.num_tries = 0

    def bring_up(self, reload: Any, superseded: Callable[[], bool], **options: Any) -> Slot:
        self.num_tries += 1
        return super().bring_up(reload, superseded, **options)


class FailingWorld(World):
    """A server called box that is to serve version 1; `meanwhile` is what its tries do."""

    loader: FailingLoader

    def __init__(self, meanwhile: Callable[..., Any], loader: type[FailingLoader] = FailingLoader) -> None:
        super().__init__(loader, server_name="box")
        self.journal._reporter = cast("Any", PlainReporter(self.registry))
        self.loader.meanwhile = meanwhile

    @property
    def deployments(self) -> list[RunRecord]:
        return [record for record in self.registry.records if record.experiment.endswith("/deployments")]

    @property
    def version(self) -> ModelVersion:
        return self.registry.get_version(self.name, 1)


def raising(error: Exception) -> Callable[..., Any]:
    def meanwhile(*_: object) -> None:
        raise error

    return meanwhile


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), KeyError("x"), StoreUnavailableError("away")])
def test_any_error_is_told_waits_for_its_next_try_and_loads_nothing_any_more(error: Exception) -> None:
    world = FailingWorld(raising(error))

    for _ in range(5):
        world.watcher.turn()

    assert world.loader.num_tries == 1
    assert world.journal.status.loading is None
    assert world.journal.status.not_served is not None
    assert [record.failed for record in world.deployments] == [True]


@pytest.mark.parametrize(
    ("error", "tag"),
    [
        (CorruptFileError("wrong bytes"), contract.refused_tag("box")),
        (DeclinedError("no golden answers"), contract.declined_tag("box")),
        (EngineStartError("killed", stage="load"), None),
        (StoreUnavailableError("away"), None),
        (MemoryError(), None),
    ],
)
def test_only_a_version_at_fault_is_tagged_as_refused(error: Exception, tag: str | None) -> None:
    world = FailingWorld(raising(error))

    world.watcher.turn()

    assert set(world.version.tags) - {contract.TAG_MANIFEST} == ({tag} if tag else set())


def test_what_fails_again_and_again_is_recorded_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    world = FailingWorld(raising(StoreUnavailableError("away")))
    monkeypatch.setattr(control.time, "monotonic", lambda: now)
    for _ in range(100):
        now += 301
        world.watcher.turn()

    assert world.loader.num_tries == 100
    assert len(world.deployments) == 7


def test_while_a_registry_hangs_one_thread_of_a_fetch_asks_it_and_the_others_go_on() -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def fetch(superseded: Callable[[], bool]) -> None:
        world.watcher._seen_at = 0.0

        def hang(*_: object) -> Any:
            asked.set()
            may_answer.wait(20)
            raise RegistryUnavailableError("it hangs")

        world.registry.resolve_alias = hang  # type: ignore[method-assign]
        looker = threading.Thread(target=superseded)
        looker.start()
        asked.wait(20)
        assert [superseded() for _ in range(20)] == [False] * 20  # were they to ask as well, the test would hang
        may_answer.set()
        looker.join(20)
        raise StoreUnavailableError("enough")

    world = FailingWorld(fetch)

    world.watcher.turn()

    assert world.loader.num_tries == 1


def test_a_server_that_knows_nothing_yet_says_whom_it_asks() -> None:
    world = FailingWorld(raising(RelayError("")))

    assert "MLflow at http" in world.journal.status.because


def test_a_second_try_says_what_became_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world, told = FailingWorld(raising(StoreUnavailableError("the store is away"))), list[str]()
    begin = world.journal.begin
    monkeypatch.setattr(world.journal, "begin", lambda reload, because: (told.append(because), begin(reload, because)))
    now = time.monotonic()
    world.watcher.turn()
    monkeypatch.setattr(control.time, "monotonic", lambda: now + 100)
    world.watcher.turn()

    assert len(told) == 2
    assert "the store is away" in told[1]


def test_a_clock_that_is_set_back_stops_no_restart() -> None:
    """The times of the decision are those of the monotonic clock, which nobody sets."""
    world = FailingWorld(raising(MemoryError()))
    world.watcher.turn()
    [refusal] = world.watcher._refusals.values()

    assert refusal.retry_at_s is not None
    assert refusal.retry_at_s - time.monotonic() <= 5
    assert watching.next_action(
        world.watcher._seen, watching.Actual(), world.watcher._refusals, now_s=refusal.retry_at_s
    ) == watching.Load(
        version=world.version,
        because=f"the alias names {world.version.label}; try 2, the last one failed: {refusal.because}",
    )


class Rebooted(FailingLoader):
    """On a box that served version 1 before."""

    known: Checkpoint | None = None

    def last_good(self) -> Checkpoint | None:
        return self.known


@pytest.mark.parametrize(
    ("error", "num_tries", "served"),
    [(EngineStartError("the driver is not there yet", stage="load"), 4, 1), (CorruptFileError("wrong"), 1, None)],
)
def test_what_was_served_last_is_tried_again_while_the_registry_is_away(
    error: RelayError, num_tries: int, served: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    world = FailingWorld(raising(error), loader=Rebooted)
    world.journal._reporter = cast("Any", SimpleNamespace(post=lambda what, write: None))
    cast("Rebooted", world.loader).known = world.slot_of(1).checkpoint
    world.registry.down = True
    monkeypatch.setattr(control.time, "monotonic", lambda: now)
    for seconds in (0, 1, 6, 11):
        now += seconds
        world.watcher.turn()
    told = world.journal.status.because
    world.watcher.turn()
    told_later = world.journal.status.because
    world.loader.meanwhile = lambda superseded: None
    now += 301
    world.watcher.turn()

    assert str(error) in told
    assert str(error) in told_later
    assert world.loader.num_tries == num_tries
    assert world.served == served
