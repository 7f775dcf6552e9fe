from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from registry_hooks.checkpoint_files import inspect
from registry_hooks.errors import NotACheckpointError, SettingsError
from server.engine.loading import LoadOptions, load

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ON_CPU = LoadOptions(device="cpu")


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def refusal(folder: Path) -> str:
    with pytest.raises(NotACheckpointError) as refused:
        load(folder, ON_CPU)
    return str(refused.value)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def split(folder: Path) -> None:
    """Two shards and an index in place of one file."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    weight_map = {name: f"model-{1 + number % 2:05d}-of-00002.safetensors" for number, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        mine = {name: weights[name] for name in names if weight_map[name] == shard}
        save_file(mine, folder / shard, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_whole_checkpoint_loads(checkpoint: Path) -> None:
    model = load(checkpoint, LoadOptions(device="cpu", num_threads=1))

    assert (model.device, model.dtype, model.max_model_len_tokens, model.vocab_size) == ("cpu", "float32", 256, 320)
    assert model.num_parameters == sum(tensor.numel() for tensor in load_file(checkpoint / WEIGHTS).values())
    assert model.eos_ids == {model.tokenizer.eos_token_id}


def test_files_say_the_bytes_and_the_dtype(checkpoint: Path) -> None:
    files = inspect(checkpoint)

    assert files.saved_dtype == "float32"
    assert files.num_weight_bytes == 4 * sum(tensor.numel() for tensor in load_file(checkpoint / WEIGHTS).values())


def test_shards_load(folder: Path) -> None:
    split(folder)

    assert load(folder, ON_CPU).num_parameters > 0


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "is no folder" in refusal(tmp_path / "nowhere")


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / CONFIG).unlink()

    assert "no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_malformed_config_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_bytes(text.encode("latin-1"))

    assert CONFIG in refusal(folder)


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()

    assert "no tokenizer" in refusal(folder)


def test_a_broken_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')

    assert "tokenizer" in refusal(folder)


def test_pickled_weights_are_refused_unread(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 never read")

    assert "only as pickles (pytorch_model.bin)" in refusal(folder)


def test_no_weights_at_all_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()

    assert "no weights (model.safetensors)" in refusal(folder)


@pytest.mark.parametrize("num_bytes", [0, 4, 100, 3000, -1])
def test_a_truncated_file_is_refused(folder: Path, num_bytes: int) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:num_bytes])

    assert "is damaged" in refusal(folder)


def test_bytes_after_the_last_tensor_are_refused(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")

    assert "is damaged" in refusal(folder)


def test_a_flipped_bit_in_the_header_is_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    place = data.index(b'"F32"') + 1
    for bit in range(8):
        changed = data.copy()
        changed[place] ^= 1 << bit
        (folder / WEIGHTS).write_bytes(changed)

        assert "is damaged" in refusal(folder)


def test_a_flipped_bit_in_the_header_length_is_refused(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    for bit in range(64):
        length = int.from_bytes(data[:8], "little") ^ (1 << bit)
        (folder / WEIGHTS).write_bytes(length.to_bytes(8, "little") + data[8:])

        assert "is damaged" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()

    assert "names model-00002-of-00002.safetensors, which is not there" in refusal(folder)


def test_an_index_that_disagrees_with_its_shards_is_refused(folder: Path) -> None:
    split(folder)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map.pop("model.norm.weight")
    change_json(index, weight_map=weight_map)

    assert "contradict each other about 'model.norm.weight'" in refusal(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "weights.bin", 7])
def test_an_index_cannot_point_elsewhere(folder: Path, name: Any) -> None:
    split(folder)
    change_json(folder / "model.safetensors.index.json", weight_map={"model.norm.weight": name})

    assert f"names {name}, which is no safetensors file of this folder" in refusal(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))

    assert "1 missing keys, such as model.norm.weight" in refusal(folder)


def test_a_tensor_too_many_is_named(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update(stray=torch.zeros(2)))

    assert "1 unexpected keys, such as stray" in refusal(folder)


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.zeros(7)}))

    assert "model.norm.weight has the shape [7] where the config asks for [128]" in refusal(folder)


def test_a_config_far_larger_than_the_weights_takes_no_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_json(folder / CONFIG, vocab_size=40_000_000)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))

    assert "parameters" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    change_weights(folder, lambda weights: weights["model.norm.weight"].index_fill_(0, torch.tensor([3]), value))

    assert "NaN or infinity (in model.norm.weight)" in refusal(folder)


def test_a_checkpoint_that_needs_code_of_its_own_is_refused_and_the_code_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('it was run')")
    change_json(folder / CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.Config"})

    assert "auto_map and the model_type 'evil'" in refusal(folder)


def test_code_that_is_left_over_is_not_needed_and_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('it was run')")
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
    for name in (CONFIG, "tokenizer_config.json", "generation_config.json"):
        change_json(folder / name, auto_map=code)

    assert type(load(folder, ON_CPU).model).__module__.startswith("transformers.")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_program_of_the_hub_named_for_the_attention_is_refused(folder: Path, key: str) -> None:
    change_json(folder / CONFIG, **{key: "somebody/flash-attn2"})

    assert "a program from the hub" in refusal(folder)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    change_json(folder / CONFIG, model_type="nobody_knows_it", architectures=["NobodyForCausalLM"])

    assert "nobody_knows_it" in refusal(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path) -> None:
    change_json(folder / CONFIG, vocab_size=200, eos_token_id=1, pad_token_id=2)
    change_weights(
        folder,
        lambda weights: weights.update(
            {"model.embed_tokens.weight": weights["model.embed_tokens.weight"][:200].clone()}
        ),
    )

    assert "embedding ends at 199" in refusal(folder)


def test_use_cache_false_of_the_trainer_is_overridden(folder: Path) -> None:
    change_json(folder / CONFIG, use_cache=False)

    assert load(folder, ON_CPU).model.config.use_cache is True


def test_the_dtype_may_be_chosen(folder: Path) -> None:
    assert load(folder, LoadOptions(device="cpu", dtype="bfloat16")).model.dtype is torch.bfloat16


def test_half_precision_weights_are_computed_in_float32_on_cpu(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({k: v.bfloat16() for k, v in weights.items()}))

    assert inspect(folder).saved_dtype == "bfloat16"
    assert load(folder, ON_CPU).dtype == "float32"


def test_a_longer_text_than_the_model_was_made_for_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="made for 256"):
        load(folder, LoadOptions(device="cpu", max_model_len_tokens=257))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_the_users_mistake(folder: Path) -> None:
    with pytest.raises(SettingsError, match="no CUDA device"):
        load(folder, LoadOptions(device="cuda"))
