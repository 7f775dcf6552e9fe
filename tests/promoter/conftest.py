"""A registry in memory with some versions, and a promoter whose judge reads scores from a table."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.promotion import wiring
from pipeline.promotion.acting import Hands, Judgement
from pipeline.promotion.reconciling import Promoter
from registry_hooks import contract, events
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings
from tests.promoter.scored_bench import Bench

NAME = "model"


@dataclass
class Table:
    """A judge that promotes the candidate with the highest score, if that beats the incumbent's by one.

    Attributes:
        broken: What it says in place of a verdict.
    """

    scores: dict[int, float] = field(default_factory=dict)
    broken: str = ""
    asked: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        numbers = tuple(candidate.version for candidate in candidates)
        self.asked.append((incumbent.version if incumbent else 0, numbers))
        best = max(numbers, key=lambda number: self.scores.get(number, 0.0))
        if incumbent is None:
            return Judgement(kind="promote", because="the best", winner=best, stories={best: ("first", "the best")})
        if self.broken:
            return Judgement(kind="error", because=self.broken)
        stories = {number: (f"story of {number}", f"reason of {number}") for number in numbers}
        if self.scores.get(best, 0.0) >= self.scores.get(incumbent.version, 0.0) + 1:
            return Judgement(kind="promote", because=f"{best} is better", winner=best, stories=stories)
        return Judgement(kind="keep", because="none is better", stories=stories)


@dataclass
class World:
    """All that a test of the promoter needs."""

    registry: MemoryPromotion = field(default_factory=MemoryPromotion)
    table: Table = field(default_factory=Table)
    _days: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.hands = Hands(registry=self.registry, book=self.registry, name=NAME, alias=contract.ALIAS_PRODUCTION)
        self.promoter = Promoter(hands=self.hands, judge=self.table, clock=self.now)

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=next(self._days))

    def publish(self, *, score: float = 0.0, digest: str | None = None, **tags: str) -> int:
        """A version as `relay publish` makes it."""
        number = len(self.registry._models[NAME].versions) + 1 if NAME in self.registry._models else 1
        all_tags = {contract.TAG_MANIFEST: digest or f"{number:064x}", contract.TAG_STEP: str(number * 100)}
        more = {f"relay.{key}": value for key, value in tags.items()}
        version = self.registry.add_version(NAME, artifact_uri=f"s3://b/{number}", tags=all_tags | more)
        self.table.scores[version.version] = score
        return version.version

    def person_moves(self, number: int | None) -> None:
        self.registry.set_alias(NAME, contract.ALIAS_PRODUCTION, number)

    @property
    def production(self) -> int | None:
        return self.registry.aliases(NAME).get(contract.ALIAS_PRODUCTION)

    def kinds(self) -> list[str]:
        return [f"{record.params['kind']} {record.params['target']}" for record in self.registry.records]

    def tags(self, number: int) -> dict[str, str]:
        return dict(self.registry.get_version(NAME, number).tags)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def settled(world: Any) -> Any:
    """Version 1 promoted as the first, version 2 because it is better."""
    world.publish(score=1)
    world.promoter.reconcile()
    world.publish(score=5)
    world.promoter.reconcile()
    return world


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def wired(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Commands meet the registry in memory."""

    @contextmanager
    def connected(settings: Settings) -> Iterator[Any]:
        yield world.registry

    monkeypatch.setattr(wiring, "connected", connected)
    monkeypatch.setattr(wiring, "_hands", lambda *_: world.hands)
    monkeypatch.setattr(wiring, "MlflowScores", lambda _: None)
    monkeypatch.setattr(wiring, "S3Store", lambda *_: None)
    monkeypatch.setenv("RELAY_REGISTRY__TRACKING_URI", f"http://{tmp_path.name}")  # so that locks are this test's own
    monkeypatch.setattr(events, "configure", lambda *_: None)  # the log's format is that of the whole process
    monkeypatch.setenv("RELAY_REGISTRY__NAME", NAME)
    monkeypatch.chdir(tmp_path)
    return world


@pytest.fixture
def relay(
    wired: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; its exit code and what it printed on stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["relay", *arguments])
        capsys.readouterr()  # what was logged before
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run
