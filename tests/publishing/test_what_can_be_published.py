"""What a folder must have, and what the user reads when it has not."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import inspect
from registry_hooks.errors import NotACheckpointError


def safetensors(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A safetensors file of zeros."""
    item_bytes = {"F32": 4, "BF16": 2, "I64": 8, "F8_E4M3": 1}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = item_bytes[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoint-40"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"architectures": ["Qwen3ForCausalLM"], "transformers_version": "5.23.0"})
    write_json(folder / "tokenizer.json", {})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "x"})
    (folder / "model.safetensors").write_bytes(safetensors({"a": ("BF16", [2, 3]), "b": ("F32", [2])}))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"pickle")
    return folder


def make_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]}
    for shard, names in shards.items():
        (folder / shard).write_bytes(safetensors({name: ("F32", [4]) for name in names}))
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 48}, "weight_map": weight_map})


def log(*entries: dict[str, float], step: int = 40) -> dict[str, Any]:
    return {"global_step": step, "epoch": 2.0, "max_steps": 100, "log_history": list(entries)}


def test_a_whole_folder_is_read_and_pickles_stay(folder: Path) -> None:
    checkpoint = inspect(folder)

    assert checkpoint.files == ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert checkpoint.weights == ("model.safetensors",)
    assert (checkpoint.dtype, checkpoint.num_parameters) == ("bfloat16", 8)
    assert (checkpoint.architecture, checkpoint.tokenizer_class) == ("Qwen3ForCausalLM", "Qwen2Tokenizer")
    assert checkpoint.has_chat_template
    assert checkpoint.step == 40


def test_shards_are_read_through_their_index(folder: Path) -> None:
    make_shards(folder)
    (folder / "adapter_model.safetensors").write_bytes(safetensors({"x": ("F32", [4])}))
    checkpoint = inspect(folder)

    assert checkpoint.weights == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert checkpoint.num_parameters == 12
    assert "adapter_model.safetensors" not in checkpoint.files


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def replace_json(name: str, document: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / name, document)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def flip_header_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[20] ^= 0x80
    path.write_bytes(data)


def say_huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter_only(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {})


def stale_index(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    make_shards(folder)
    (folder / "model.safetensors").write_bytes(weights)


def lost_shard(folder: Path) -> None:
    make_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def lying_index(folder: Path) -> None:
    make_shards(folder)
    write_json(
        folder / "model.safetensors.index.json",
        {"weight_map": dict.fromkeys(("a", "b", "c"), "model-00001-of-00002.safetensors")},
    )


def climbing_index(folder: Path) -> None:
    make_shards(folder)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../other.safetensors"}})


def unfinished_shards(folder: Path) -> None:
    make_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def quantized(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors({"a": ("F8_E4M3", [4])}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("config.json"), "no config.json"),
        (remove("model.safetensors"), "no weights"),
        (remove("tokenizer.json"), "no tokenizer"),
        (remove("tokenizer_config.json"), "no tokenizer_config.json"),
        (pickle_only, "only as pickles"),
        (adapter_only, "merge"),
        (truncate, "truncated"),
        (flip_header_bit, "damaged"),
        (say_huge_header, "truncated"),
        (stale_index, "left over"),
        (lost_shard, "not there"),
        (lying_index, "contradict"),
        (climbing_index, "no safetensors file of this folder"),
        (unfinished_shards, "not finished"),
        (quantized, "quantized"),
        (replace_json("config.json", {}), "no architecture"),
        (replace_json("config.json", []), "no JSON object"),
        (replace_json("model.safetensors", {}), "safetensors"),
        (replace_json("trainer_state.json", {"global_step": "40"}), "global_step"),
        (lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 4') and None, "half-written"),
    ],
)
def test_a_folder_that_cannot_be_published_says_why(folder: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(folder)
    with pytest.raises(NotACheckpointError, match=words):
        inspect(folder)


def test_a_folder_of_checkpoints_names_them(folder: Path) -> None:
    with pytest.raises(NotACheckpointError, match="checkpoint-40"):
        inspect(folder.parent)
    with pytest.raises(NotACheckpointError, match="no folder"):
        inspect(folder / "config.json")


def test_the_step_is_the_trainers_then_the_names_then_the_users(folder: Path, tmp_path: Path) -> None:
    unnamed = tmp_path / "final"
    shutil.copytree(folder, unnamed)
    by_name, by_user = inspect(folder).step, inspect(unnamed, step=7).step
    write_json(unnamed / "trainer_state.json", log(step=99))

    assert (by_name, by_user, inspect(unnamed).step) == (40, 7, 99)
    with pytest.raises(NotACheckpointError, match="contradicts"):
        inspect(unnamed, step=98)


def test_a_folder_that_tells_no_step_asks_for_it(folder: Path, tmp_path: Path) -> None:
    folder = folder.rename(tmp_path / "final")
    with pytest.raises(NotACheckpointError, match="--step"):
        inspect(folder)


def test_the_last_evaluation_at_or_before_the_step_counts(folder: Path) -> None:
    write_json(
        folder / "trainer_state.json",
        log(
            {"step": 20, "eval_loss": 3.0},
            {"step": 30, "eval_copy_loss": 2.0, "eval_copy_runtime": 9.0, "eval_samples_per_second": 3.0},
            {"step": 30, "eval_sum_loss": 2.5, "epoch": 1.5},
            {"step": 40, "loss": 1.0},
            {"step": 50, "eval_loss": 0.1},
        ),
    )
    state = inspect(folder).state

    assert dict(state.metrics) == {"eval_copy_loss": 2.0, "eval_sum_loss": 2.5}
    assert state.eval_step == 30
    assert dict(state.arguments) == {"max_steps": "100"}


def test_metrics_that_are_not_finite_are_kept_apart(folder: Path) -> None:
    entry = {
        "step": 40,
        "eval_loss": float("nan"),
        "eval_ppl": float("inf"),
        "eval_acc": 0.5,
        "eval_down": -float("inf"),
    }
    write_json(folder / "trainer_state.json", log(entry))
    state = inspect(folder).state

    assert dict(state.metrics) == {"eval_acc": 0.5}
    assert dict(state.nonfinite) == {"eval_loss": "nan", "eval_ppl": "inf", "eval_down": "-inf"}
