"""A LoRA adapter merged into its base: the same as computing it densely, and as running the adapter beside the base."""

from __future__ import annotations

import json
import math
from pathlib import Path
from shutil import copy2

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from pipeline.checkpoint import inspect
from pipeline.merging import merge_adapter
from registry_hooks.checkpoint_files import WEIGHTS_INDEX
from tests.publishing.adapters import DOWN, EMBEDDING, NORM, PREFIX, Q0, Q1, Workshop, weights_of


def assert_near(merged: torch.Tensor, base: torch.Tensor, delta: np.ndarray) -> None:
    np.testing.assert_allclose(merged.numpy(), base.numpy().astype(np.float64) + delta, rtol=0, atol=2e-5)


def test_only_the_wrapped_weights_change_and_by_the_scaled_product(workshop: Workshop) -> None:
    for module in (Q0, DOWN):
        workshop.wrap(module)
    merged, base = workshop.merge(), weights_of(workshop.base)

    assert merged.keys() == base.keys()
    assert {name for name in base if not torch.equal(merged[name], base[name])} == {f"{Q0}.weight", f"{DOWN}.weight"}
    for module in (Q0, DOWN):
        assert_near(merged[f"{module}.weight"], base[f"{module}.weight"], workshop.dense(module, 2.0))


def test_each_module_has_the_rank_and_alpha_of_its_pattern(workshop: Workshop) -> None:
    workshop.config |= {
        "use_rslora": True,
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    }
    workshop.wrap(Q0)
    workshop.wrap(Q1, rank=2)
    workshop.wrap(DOWN)
    merged, base = workshop.merge(), weights_of(workshop.base)

    for module, scale in ((Q0, 8 / 2), (Q1, 8 / math.sqrt(2)), (DOWN, 3 / 2)):
        assert_near(merged[f"{module}.weight"], base[f"{module}.weight"], workshop.dense(module, scale))


@pytest.mark.parametrize("flag", [True, False])
def test_layers_of_gpt2_but_its_head_are_changed_transposed_whatever_the_adapter_says(
    tmp_path: Path, flag: bool
) -> None:
    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=4, n_positions=64, tie_word_embeddings=False)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    workshop = Workshop(base=tmp_path / "base", folder=tmp_path)
    # PEFT saves what the last layer was that it wrapped: false here, true had the head not been wrapped.
    workshop.config["fan_in_fan_out"] = flag
    wide, square = "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"
    for module, num_in, num_out in ((wide, 32, 96), (square, 32, 32), ("lm_head", 32, 96)):
        workshop.tensors[f"{PREFIX}{module}.lora_A.weight"] = workshop.draw(4, num_in)
        workshop.tensors[f"{PREFIX}{module}.lora_B.weight"] = workshop.draw(num_out, 4)
    merged, base = workshop.merge(), weights_of(workshop.base)

    for module in (wide, square):
        assert_near(merged[f"{module}.weight"], base[f"{module}.weight"], workshop.dense(module, 2.0).T)
    assert_near(merged["lm_head.weight"], base["lm_head.weight"], workshop.dense("lm_head", 2.0))


@pytest.mark.parametrize(
    "key", [NORM, "model.norm.modules_to_save.weight", "model.norm.modules_to_save.default.weight"]
)
def test_a_module_that_was_trained_whole_is_replaced(workshop: Workshop, key: str) -> None:
    workshop.wrap(Q0)
    trained = workshop.draw(128)
    workshop.tensors[PREFIX + key] = trained

    assert torch.equal(workshop.merge()[NORM], trained)


@pytest.mark.parametrize("beginning", ["gaussian", "eva", "orthogonal", "mica"])
def test_a_beginning_that_leaves_the_base_alone_is_plain_lora(workshop: Workshop, beginning: str) -> None:
    workshop.config["init_lora_weights"] = beginning
    workshop.wrap(Q0)
    merged, base = workshop.merge(), weights_of(workshop.base)

    assert_near(merged[f"{Q0}.weight"], base[f"{Q0}.weight"], workshop.dense(Q0, 2.0))


def test_the_output_head_of_an_untied_base_can_be_wrapped(workshop: Workshop) -> None:
    tensors = weights_of(workshop.base)
    tensors["lm_head.weight"] = tensors[f"{EMBEDDING}.weight"].clone()
    save_file(tensors, workshop.base / "model.safetensors", metadata={"format": "pt"})
    workshop.wrap("lm_head")
    # PEFT saves the weight of a wrapped head beside its adapter.
    workshop.tensors[f"{PREFIX}lm_head.base_layer.weight"] = tensors["lm_head.weight"]
    a, b = workshop.draw(4, 320), workshop.draw(128, 4)
    workshop.tensors |= {f"{PREFIX}{EMBEDDING}.lora_embedding_A": a, f"{PREFIX}{EMBEDDING}.lora_embedding_B": b}
    merged = workshop.merge()

    assert_near(merged["lm_head.weight"], tensors["lm_head.weight"], workshop.dense("lm_head", 2.0))
    assert_near(merged[f"{EMBEDDING}.weight"], tensors[f"{EMBEDDING}.weight"], 2.0 * (b @ a).numpy().T)


def test_embeddings_beside_a_head_of_another_name_are_changed_alone(workshop: Workshop) -> None:
    tensors = weights_of(workshop.base)
    tensors["embed_out.weight"] = tensors[f"{EMBEDDING}.weight"].clone()
    save_file(tensors, workshop.base / "model.safetensors", metadata={"format": "pt"})
    trained = workshop.draw(320, 128)
    workshop.tensors[f"{PREFIX}{EMBEDDING}.weight"] = trained
    merged = workshop.merge()

    assert torch.equal(merged[f"{EMBEDDING}.weight"], trained)
    assert torch.equal(merged["embed_out.weight"], tensors["embed_out.weight"])


def test_the_merged_model_answers_as_the_base_with_its_adapter_beside(workshop: Workshop) -> None:
    modules = [
        f"model.layers.{i}.{m}" for i in range(4) for m in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
    ]
    for module in modules:
        workshop.wrap(module)
    workshop.tensors = {key: 0.1 * value for key, value in workshop.tensors.items()}
    workshop.merge()
    ids_BT = torch.arange(3, 63).reshape(2, 30)
    model = AutoModelForCausalLM.from_pretrained(workshop.base)
    for module in modules:
        a, b = (workshop.tensors[f"{PREFIX}{module}.lora_{side}.weight"] for side in "AB")
        model.get_submodule(module).register_forward_hook(
            lambda _, given, out, a=a, b=b: out + 2.0 * (given[0] @ a.T @ b.T)
        )
    merged = AutoModelForCausalLM.from_pretrained(workshop.target)
    with torch.no_grad():
        beside_BTV, merged_BTV = model(ids_BT).logits, merged(ids_BT).logits
        base_BTV = AutoModelForCausalLM.from_pretrained(workshop.base)(ids_BT).logits

    torch.testing.assert_close(merged_BTV, beside_BTV, rtol=0, atol=1e-4)
    assert (merged_BTV - base_BTV).abs().max() > 0.01


def test_dtype_and_shards_are_those_of_the_base(workshop: Workshop) -> None:
    tensors = {name: value.bfloat16() for name, value in weights_of(workshop.base).items()}
    (workshop.base / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, workshop.base / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    (workshop.base / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    a, b = workshop.draw(4, 128), workshop.draw(128, 4)
    workshop.tensors = {f"{PREFIX}{Q0}.lora_A.weight": a.bfloat16(), f"{PREFIX}{Q0}.lora_B.weight": b.bfloat16()}
    merged = workshop.merge()
    expected = tensors[f"{Q0}.weight"].float() + 2.0 * (b.bfloat16().float() @ a.bfloat16().float())

    assert inspect(workshop.target).weights == tuple(shards)
    assert inspect(workshop.target).dtype == "bfloat16"
    assert torch.equal(merged[f"{Q0}.weight"], expected.bfloat16())


def test_step_metrics_time_and_tokenizer_are_the_adapters(workshop: Workshop) -> None:
    workshop.wrap(Q0)
    workshop.write()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        copy2(workshop.base / name, workshop.adapter / name)
    (workshop.adapter / "chat_template.jinja").write_text("{{ messages }}")
    workshop.merge()
    found = inspect(workshop.target)
    saved_at = max(path.stat().st_mtime for path in workshop.adapter.iterdir())

    assert (found.step, found.state.metrics) == (7, {"eval_loss": 1.5})
    assert (workshop.target / "chat_template.jinja").read_text() == "{{ messages }}"
    assert abs(found.saved_at.timestamp() - saved_at) < 0.001


def test_the_same_folders_give_the_same_bytes(workshop: Workshop) -> None:
    workshop.wrap(Q0)
    workshop.merge()
    merge_adapter(workshop.adapter, workshop.base, workshop.folder / "again")
    one, other = (p / "model.safetensors" for p in (workshop.target, workshop.folder / "again"))

    assert one.read_bytes() == other.read_bytes()
