"""What every score book must do: MLflow's, against a real server, and the in-memory twin, by the same tests."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from registry_hooks import contract
from registry_hooks.errors import RegistryUnavailableError, UserError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.memory_scores import MemoryScores
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_scores import MlflowScores
from registry_hooks.ports import CheckpointCatalog, ScoreBook, VersionSource
from registry_hooks.records import CheckpointDraft, Lineage, ModelVersion, ScoreEntry

ENTRY = ScoreEntry(
    test_set="held-out",
    test_set_source="/data/größe/held-out.jsonl",
    test_set_digest="a" * 64,
    fingerprint="f" * 64,
    num_items=500,
    seconds=12.5,
    uri="s3://relay/x/evaluation/aaaaaaaaaaaa.parquet",
)


@dataclass(frozen=True)
class World:
    """A score book, and a registry that has versions."""

    book: ScoreBook
    registry: VersionSource
    catalog: CheckpointCatalog

    def publish(self, name: str, step: int = 20) -> ModelVersion:
        draft = CheckpointDraft(
            name=name,
            digest=uuid.uuid4().hex * 2,
            lineage=Lineage(step=step, config_hash="c", git_commit=None, git_dirty=None, saved_at=datetime.now(UTC)),
            metrics={"eval_loss": 1.25},
            nonfinite={},
            params={},
            parent_run_id=None,
            training_key=uuid.uuid4().hex,
            training_name="sft",
        )
        place = self.catalog.open_draft(draft)
        self.catalog.finish_draft(draft, place)
        tags = {contract.TAG_MANIFEST: draft.digest, contract.TAG_STEP: str(step)}
        return self.catalog.create_version(draft, place, tags)


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=pytest.mark.integration)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        memory = MemoryRegistry()
        yield World(MemoryScores(memory), memory, memory)
        return
    stack: Any = request.getfixturevalue("stack")
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=20, write_timeout_s=60)
    yield World(MlflowScores(registry), registry, MlflowCatalog(registry, experiment="scores"))
    registry.close()


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


def test_what_was_recorded_comes_back_with_its_metrics(world: World, name: str) -> None:
    version = world.publish(name)
    other = replace(ENTRY, test_set_digest="b" * 64, test_set="second")
    world.book.record_scores(version, other, {"eval/loss": 2.0})
    world.book.record_scores(version, ENTRY, {"eval/exact_match": 0.5, "eval/loss/two digits": 0.25})

    assert world.book.score_entries(version) == (ENTRY, other)


def test_an_evaluation_on_the_same_set_replaces_the_one_before(world: World, name: str) -> None:
    version = world.publish(name)
    world.book.record_scores(version, ENTRY, {"eval/loss": 2.0})
    again = replace(ENTRY, fingerprint="e" * 64, seconds=1.0)
    world.book.record_scores(version, again, {"eval/loss": 1.0})

    assert world.book.score_entries(version) == (again,)


def test_a_version_that_was_never_scored_has_no_entries(world: World, name: str) -> None:
    assert world.book.score_entries(world.publish(name)) == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_recorded(world: World, name: str, value: float) -> None:
    version = world.publish(name)
    with pytest.raises(ValueError, match="not finite"):
        world.book.record_scores(version, ENTRY, {"eval/exact_match": 1.0, "eval/loss": value})

    assert world.book.score_entries(version) == ()


def test_a_version_without_a_run_has_nowhere_to_put_scores(world: World, name: str) -> None:
    version = replace(world.publish(name), run_id=None)
    for ask in (
        lambda: world.book.artifact_root(version),
        lambda: world.book.record_scores(version, ENTRY, {"eval/loss": 1.0}),
    ):
        with pytest.raises(UserError, match="run"):
            ask()

    assert world.book.score_entries(version) == ()


def test_each_run_has_a_place_of_its_own_in_the_store(world: World, name: str) -> None:
    first, second = (world.book.artifact_root(world.publish(name, step)) for step in (1, 2))

    assert first.startswith("s3://")
    assert not first.endswith("/")
    assert first != second


def test_the_newest_versions_come_first(world: World, name: str) -> None:
    published = [world.publish(name, step) for step in (10, 20, 30)]

    listed = [replace(one, artifact_uri="") for one in reversed(published)]  # where they lie is asked of one at a time
    assert world.book.newest_versions(name, 10) == tuple(listed)
    assert [version.step for version in world.book.newest_versions(name, 2)] == [30, 20]
    assert world.book.newest_versions(f"{name}-none", 10) == ()


def test_a_registry_that_is_down_says_so() -> None:
    memory = MemoryRegistry()
    version = memory.add_version("m", artifact_uri="s3://x/y")
    memory.down = True
    closed = MlflowRegistry("http://127.0.0.1:9", timeout_s=1, write_timeout_s=1)
    for book in (MemoryScores(memory), MlflowScores(closed)):
        for ask in (
            lambda book=book: book.score_entries(version),
            lambda book=book: book.newest_versions("m", 1),
            lambda book=book: book.record_scores(version, ENTRY, {"eval/loss": 1.0}),
        ):
            with pytest.raises(RegistryUnavailableError):
                ask()

    closed.close()
