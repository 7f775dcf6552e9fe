"""A LoRA adapter merged into its base: the same as computing it densely, and as running the adapter beside the base."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy2
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.checkpoint import WEIGHTS_INDEX, inspect
from pipeline.merging import merge_adapter
from registry_hooks.errors import CorruptFileError, NotACheckpointError

PREFIX = "base_model.model."
Q0, Q1, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens"
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "loftq_config": {},
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "use_rslora": False,
}


@dataclass
class Workshop:
    """Builds adapters for one base model and merges them."""

    base: Path
    folder: Path
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    @property
    def adapter(self) -> Path:
        return self.folder / "checkpoint-7"

    @property
    def target(self) -> Path:
        return self.folder / "merged" / "checkpoint-7"

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random)

    def wrap(self, module: str, *, rank: int = 4) -> None:
        num_out, num_in = load_file(self.base / "model.safetensors")[f"{module}.weight"].shape
        self.tensors[f"{PREFIX}{module}.lora_A.weight"] = self.draw(rank, num_in)
        self.tensors[f"{PREFIX}{module}.lora_B.weight"] = self.draw(num_out, rank)

    def write(self) -> None:
        self.adapter.mkdir(parents=True, exist_ok=True)
        (self.adapter / "adapter_config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, self.adapter / "adapter_model.safetensors")
        state = {"global_step": 7, "log_history": [{"step": 7, "eval_loss": 1.5}]}
        (self.adapter / "trainer_state.json").write_text(json.dumps(state))

    def merge(self) -> dict[str, torch.Tensor]:
        self.write()
        self.target.parent.mkdir(exist_ok=True)
        merge_adapter(self.adapter, self.base, self.target)
        return {k: v for path in sorted(self.target.glob("*.safetensors")) for k, v in load_file(path).items()}

    def dense(self, module: str, scale: float) -> np.ndarray:
        """B · A computed in another library and another precision."""
        a, b = (self.tensors[f"{PREFIX}{module}.lora_{side}.weight"].numpy().astype(np.float64) for side in "AB")
        return np.asarray(scale * np.einsum("or,ri->oi", b, a))


@pytest.fixture
def workshop(tiny_checkpoint: Path, tmp_path: Path) -> Workshop:
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_checkpoint.iterdir():
        copy2(path, base / path.name)
    return Workshop(base=base, folder=tmp_path)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


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


def test_a_weight_that_is_stored_transposed_is_changed_transposed(workshop: Workshop) -> None:
    workshop.config["fan_in_fan_out"] = True
    num_in, num_out = weights_of(workshop.base)[f"{DOWN}.weight"].shape
    workshop.tensors = {
        f"{PREFIX}{DOWN}.lora_A.weight": workshop.draw(4, num_in),
        f"{PREFIX}{DOWN}.lora_B.weight": workshop.draw(num_out, 4),
    }
    merged, base = workshop.merge(), weights_of(workshop.base)

    assert num_in != num_out
    assert_near(merged[f"{DOWN}.weight"], base[f"{DOWN}.weight"], workshop.dense(DOWN, 2.0).T)


@pytest.mark.parametrize(
    "key", [NORM, "model.norm.modules_to_save.weight", "model.norm.modules_to_save.default.weight"]
)
def test_a_module_that_was_trained_whole_is_replaced(workshop: Workshop, key: str) -> None:
    workshop.wrap(Q0)
    trained = workshop.draw(128)
    workshop.tensors[PREFIX + key] = trained

    assert torch.equal(workshop.merge()[NORM], trained)


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


def configured(**changes: Any) -> Callable[[Workshop], None]:
    return lambda workshop: workshop.config.update(changes)


def with_tensor(key: str, *shape: int) -> Callable[[Workshop], None]:
    return lambda workshop: workshop.tensors.update({key: torch.zeros(shape)})


REFUSED: dict[str, tuple[Callable[[Workshop], Any], str]] = {
    "dora": (configured(use_dora=True), "DoRA"),
    "biases": (configured(bias="lora_only"), "biases"),
    "biases of lora": (configured(lora_bias=True), "LoRA with biases"),
    "another kind": (configured(peft_type="IA3"), "IA3"),
    "pissa": (configured(init_lora_weights="pissa_niter_4"), "changes the base model"),
    "a variant of tomorrow": (configured(use_newlora=True), "use_newlora"),
    "a variant with a config": (configured(arrow_config={"top_k": 1}), "arrow_config"),
    "replicated layers": (configured(layer_replication=[[0, 2]]), "replicated"),
    "no rank": (configured(r=0), "not a number above 0"),
    "another rank": (configured(r=8), "but 8 in adapter_config.json"),
    "a pattern that is none": (configured(rank_pattern={"(": 4}), "malformed pattern"),
    "only one side": (lambda w: w.tensors.pop(f"{PREFIX}{Q0}.lora_B.weight"), "save was not finished"),
    "another tensor": (with_tensor(f"{PREFIX}{Q0}.lora_magnitude_vector", 4), "something else"),
    "no prefix": (with_tensor("model.norm.weight", 128), "something else"),
    "a module that is not there": (with_tensor(f"{PREFIX}model.other.weight", 4), "which .* has not"),
    "a larger vocabulary": (with_tensor(f"{PREFIX}{EMBEDDING}.weight", 321, 128), "vocabulary was resized"),
    "another shape": (with_tensor(f"{PREFIX}{NORM}", 64), "base is another model"),
    "tied embeddings": (with_tensor(f"{PREFIX}{EMBEDDING}.weight", 320, 128), "output head"),
    "a base without config": (lambda w: (w.base / "config.json").unlink(), "no base model"),
    "a base without weights": (lambda w: (w.base / "model.safetensors").unlink(), "has no model.safetensors"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_not_plain_lora_is_refused_by_name_and_writes_nothing(workshop: Workshop, how: str) -> None:
    change, words = REFUSED[how]
    workshop.wrap(Q0)
    change(workshop)

    with pytest.raises(NotACheckpointError, match=words):
        workshop.merge()
    assert not workshop.target.exists()


def test_a_quantized_base_is_refused(workshop: Workshop) -> None:
    config = json.loads((workshop.base / "config.json").read_text())
    (workshop.base / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    workshop.wrap(Q0)

    with pytest.raises(NotACheckpointError, match="quantized"):
        workshop.merge()


def test_a_folder_without_an_adapter_is_refused(workshop: Workshop) -> None:
    with pytest.raises(NotACheckpointError, match=r"adapter_config\.json"):
        merge_adapter(workshop.base, workshop.base, workshop.target)


def test_a_diverged_adapter_is_refused(workshop: Workshop) -> None:
    workshop.wrap(Q0)
    workshop.tensors[f"{PREFIX}{Q0}.lora_A.weight"][0, 0] = float("nan")

    with pytest.raises(CorruptFileError, match="not finite"):
        workshop.merge()
