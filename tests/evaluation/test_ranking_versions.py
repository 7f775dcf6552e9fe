"""The ranking that people read."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.evaluation import rank_command, ranking, scores
from pipeline.evaluation.items import Item
from pipeline.evaluation.results import Evaluation, ItemScore
from pipeline.evaluation.score_record import record, recorded
from pipeline.evaluation.test_set import build
from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.memory_scores import MemoryScores
from registry_hooks.memory_store import MemoryStore
from registry_hooks.records import ModelVersion

ITEMS = build(
    [Item(item_id=str(n), slice="odd" if n % 2 else "even", prompt="?", messages=(), answer="!") for n in range(10)],
    name="held-out",
)


class World:
    """A registry with versions, their scores and their files."""

    def __init__(self) -> None:
        self.registry, self.store = MemoryRegistry(), MemoryStore()
        self.book = MemoryScores(self.registry)

    def version(self, step: int, **tags: str) -> ModelVersion:
        return self.registry.add_version(
            "demo", artifact_uri="s3://memory/x", tags={contract.TAG_STEP: str(step), **tags}
        )

    def score(self, version: ModelVersion, num_right: int, *, fingerprint: str = "f", loss: float = 0.5) -> Evaluation:
        items = tuple(
            ItemScore(
                item_id=one.item_id,
                slice=one.slice,
                scorer="exact_match",
                score=float(place < num_right),
                loss=loss,
                num_tokens=1,
                said="!",
            )
            for place, one in enumerate(ITEMS.items)
        )
        evaluation = Evaluation(
            test_set=ITEMS.name,
            test_set_digest=ITEMS.digest,
            fingerprint=fingerprint,
            items=items,
            seconds=1.0,
            device="cpu",
            dtype="float32",
        )
        record(evaluation, version, test_set=ITEMS, book=self.book, writer=self.store)
        return evaluation

    def shown(self) -> str:
        found, entry = rank_command.read("demo", overview=self.registry, book=self.book, reader=self.store)
        output = io.StringIO()
        rank_command.show(found, Console(file=output, width=160), test_set=entry)
        return output.getvalue()


@pytest.fixture
def world() -> World:
    return World()


def test_the_best_version_stands_first_and_unscored_ones_are_named(world: World) -> None:
    worse, better = world.version(100), world.version(200, **{contract.TAG_STATE: "admitted"})
    world.version(300)
    world.score(worse, 4)
    world.score(better, 8)
    world.registry.set_alias("demo", "Production", 2)

    shown = world.shown()

    lines = [line for line in shown.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in lines] == ["2", "1"]
    assert all(word in lines[0] for word in ("200", "0.800", "0.490-0.943", "admitted", "Production"))
    assert "without scores on it: version 3" in shown


def test_of_equal_scores_the_smaller_loss_stands_first(world: World) -> None:
    world.score(world.version(1), 5, loss=0.5)
    world.score(world.version(2), 5, loss=0.4)
    found, _ = rank_command.read("demo", overview=world.registry, book=world.book, reader=world.store)

    assert [row.version.version for row in found.rows] == [2, 1]


def test_what_was_scored_another_way_is_marked(world: World) -> None:
    world.score(world.version(1), 5)
    world.score(world.version(2), 5)
    world.score(world.version(3), 9, fingerprint="other")

    shown = world.shown()

    assert "3 *" in shown
    assert "do not compare" in shown


def test_without_any_scores_the_table_says_how_to_get_some(world: World) -> None:
    world.version(1)

    assert "relay evaluate" in world.shown()


def test_a_model_that_is_not_there_is_an_error(world: World) -> None:
    with pytest.raises(UnknownModelError):
        world.shown()


def test_scores_come_back_only_for_the_same_set_and_fingerprint(world: World) -> None:
    version = world.version(1)
    evaluation = world.score(version, 5)

    def ask(digest: str, fingerprint: str | None = None) -> Evaluation | None:
        return recorded(version, digest, fingerprint, book=world.book, reader=world.store)

    assert ask(ITEMS.digest) == evaluation
    assert ask(ITEMS.digest, "f") == evaluation
    assert ask(ITEMS.digest, "other") is None
    assert ask("0" * 64) is None


@pytest.mark.parametrize("harm", ["gone", "broken", "another"])
def test_an_entry_whose_file_is_not_its_own_counts_as_absent(world: World, harm: str) -> None:
    version = world.version(1)
    evaluation = world.score(version, 5)
    uri = world.book.score_entries(version)[0].uri
    if harm == "gone":
        world.store = MemoryStore()
    else:
        other = world.score(world.version(2), 5, fingerprint="other")
        world.store.write(uri, b"no" if harm == "broken" else scores.to_parquet(other))

    assert recorded(version, evaluation.test_set_digest, book=world.book, reader=world.store) is None


def test_the_interval_is_wilsons() -> None:
    assert ranking.wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert ranking.wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert ranking.wilson(0.0, 0) == (0.0, 1.0)
