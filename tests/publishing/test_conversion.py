"""A copy of a checkpoint in another dtype."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint import Checkpoint, inspect
from pipeline.conversion import convert
from registry_hooks.checkpoint_files import WEIGHTS_INDEX
from registry_hooks.errors import CorruptFileError


def sharded(source: Path, folder: Path) -> Checkpoint:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return inspect(folder)


def test_a_copy_is_the_same_every_time_and_rounds_as_torch_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = sharded(tiny_checkpoint, tmp_path / "checkpoint-20")
    convert(checkpoint, "bfloat16", tmp_path / "one")
    convert(checkpoint, "bfloat16", tmp_path / "two")
    copy = inspect(tmp_path / "one", step=20)
    before, after = (
        {k: v for name in c.weights for k, v in load_file(c.folder / name).items()} for c in (checkpoint, copy)
    )
    index = json.loads((copy.folder / WEIGHTS_INDEX).read_text())

    assert copy.dtype == "bfloat16"
    assert copy.files == checkpoint.files
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in copy.files)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)
    assert json.loads((copy.folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert index["metadata"]["total_size"] == 2 * checkpoint.num_parameters


@pytest.mark.parametrize(("value", "words"), [(1e6, "bfloat16"), (float("nan"), "diverged")])
def test_a_weight_that_the_dtype_cannot_hold_stops_it(
    tiny_checkpoint: Path, tmp_path: Path, value: float, words: str
) -> None:
    save_file({"a": torch.full((2,), value)}, tmp_path / "model.safetensors")
    checkpoint = replace(inspect(tiny_checkpoint), folder=tmp_path, files=("model.safetensors",))

    with pytest.raises(CorruptFileError, match=words):
        convert(checkpoint, "float16", tmp_path / "out")
