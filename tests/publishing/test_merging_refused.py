"""What is no plain LoRA, or does not fit its base, is refused by name: nearly right would be served unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.merging import merge_adapter
from registry_hooks.errors import CorruptFileError, NotACheckpointError
from tests.publishing.adapters import EMBEDDING, NORM, PREFIX, Q0, Workshop, weights_of


def configured(**changes: Any) -> Callable[[Workshop], None]:
    return lambda workshop: workshop.config.update(changes)


def with_tensor(key: str, *shape: int) -> Callable[[Workshop], None]:
    return lambda workshop: workshop.tensors.update({key: torch.zeros(shape)})


REFUSED: dict[str, tuple[Callable[[Workshop], Any], str]] = {
    "dora": (configured(use_dora=True), "DoRA"),
    "biases": (configured(bias="lora_only"), "biases"),
    "biases of lora": (configured(lora_bias=True), "LoRA with biases"),
    "another kind": (configured(peft_type="IA3"), "IA3"),
    "pissa": (configured(init_lora_weights="pissa_niter_4"), "changes the base model.*weight_conversion"),
    "transposed for no reason": (configured(fan_in_fan_out=True), "fan_in_fan_out is set"),
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
    "tied embeddings": (with_tensor(f"{PREFIX}{EMBEDDING}.weight", 320, 128), "output head.*merge into that"),
    "a tied head": (with_tensor(f"{PREFIX}lm_head.weight", 320, 128), "output head.*merge into that"),
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


@pytest.mark.parametrize("name", ["transformer.tokens_embed", "backbone.embeddings", "gpt_neox.embed_in"])
def test_tied_embeddings_are_known_by_every_name(workshop: Workshop, name: str) -> None:
    tensors = weights_of(workshop.base)
    tensors[f"{name}.weight"] = tensors.pop(f"{EMBEDDING}.weight")
    save_file(tensors, workshop.base / "model.safetensors", metadata={"format": "pt"})
    workshop.tensors[f"{PREFIX}{name}.weight"] = workshop.draw(320, 128)

    with pytest.raises(NotACheckpointError, match="output head"):
        workshop.merge()


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
