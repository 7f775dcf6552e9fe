"""A checkpoint folder is taken when it is finished, and not a file earlier."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.watching import wholeness
from pipeline.watching.wholeness import Sight, Take, Wait
from registry_hooks.checkpoint_files import WEIGHTS_INDEX
from tests.watching.memory_world import Save


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def shard_without(folder: Path, missing: str) -> None:
    shard(folder)
    (folder / missing).unlink()


def shard_and_cut(folder: Path) -> None:
    shard(folder)
    cut(folder / "model-00002-of-00002.safetensors", 2000)


HALF_WRITTEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "half a config": (lambda f: cut(f / "config.json", 20), "half-written"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), "truncated"),
    "half a header": (lambda f: cut(f / "model.safetensors", 100), "truncated"),
    "half the weights": (lambda f: cut(f / "model.safetensors", 100_000), "truncated"),
    "one byte less": (lambda f: cut(f / "model.safetensors", -1), "truncated"),
    "a shard without its index": (lambda f: shard_without(f, WEIGHTS_INDEX), "save was not finished"),
    "an index without a shard": (lambda f: shard_without(f, "model-00002-of-00002.safetensors"), "not there"),
    "half a shard": (shard_and_cut, "truncated"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "no state of the Trainer": (lambda f: (f / "trainer_state.json").unlink(), "writes last"),
    "half a state of the Trainer": (lambda f: cut(f / "trainer_state.json", 100), "half-written"),
    "a temporary folder beside": (lambda f: f.with_name(f"tmp-{f.name}").mkdir(), "still there"),
    "gone": (shutil.rmtree, "no folder"),
}


@pytest.mark.parametrize("how", HALF_WRITTEN)
def test_a_half_written_folder_is_seen_as_one(save: Save, how: str) -> None:
    folder = save(20)
    assert wholeness.look(folder).lacking == ""
    damage, words = HALF_WRITTEN[how]
    damage(folder)

    assert words in wholeness.look(folder).lacking


def test_a_sharded_folder_is_whole(save: Save) -> None:
    folder = save(20)
    shard(folder)

    assert wholeness.look(folder).lacking == ""


def test_a_folder_of_another_trainer_needs_no_state(save: Save) -> None:
    folder = save(20)
    for name in ("trainer_state.json", "training_args.bin"):
        (folder / name).unlink()

    assert wholeness.look(folder).lacking == ""


@pytest.mark.parametrize(
    ("lacking", "unchanged_s", "expected"),
    [
        ("", 4.9, Wait(because="it changed within the last 5 s")),
        ("", 5.0, Take()),
        ("no weights", 4.9, Wait(because="no weights")),
        ("no weights", 5.0, Wait(because="no weights", is_stuck=True)),
    ],
)
def test_only_a_whole_folder_that_rests_is_taken(lacking: str, unchanged_s: float, expected: Take | Wait) -> None:
    sight = Sight(files=frozenset(), lacking=lacking)

    assert wholeness.decide(sight, unchanged_s=unchanged_s, settle_s=5.0) == expected


def test_any_write_changes_the_sight(save: Save) -> None:
    folder = save(20)
    before = wholeness.look(folder)
    (folder / "optimizer.pt").write_bytes(b"grew while nobody looked")

    assert wholeness.look(folder) != before


def test_folders_are_sorted_by_step() -> None:
    names = ["checkpoint-1000", "checkpoint-final", "checkpoint-20", "checkpoint-300"]
    ordered = sorted(map(Path, names), key=wholeness.step_order)

    assert [path.name for path in ordered] == ["checkpoint-20", "checkpoint-300", "checkpoint-1000", "checkpoint-final"]
