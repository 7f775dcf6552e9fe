"""Reads a LoRA adapter folder as PEFT saves it, without its bytes: which tensor changes which weight, and by how much.

Source: https://github.com/huggingface/peft (`tuners/lora/config.py`, `utils/other.py` `get_pattern_key`).
Shapes: O outputs, I inputs, R rank; for an embedding, I is the vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_hooks import weights
from registry_hooks.checkpoint_files import read_json_object
from registry_hooks.errors import NotACheckpointError
from registry_hooks.weights import TensorInfo

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<side>[AB])(\.weight)?")
# A module that was trained whole, or that LoRA wraps.
_WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")
# Ways to begin that leave the base model as it is; the others (PiSSA, OLoRA, LoftQ, …) change it.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
# Models whose layers, but for the head, are stored as (I, O). PEFT goes by the layer; its `fan_in_fan_out` is only what
# the last layer was that it wrapped, so it is wrong of the others where an adapter has layers of both kinds.
_TRANSPOSED_MODELS = ("gpt2", "openai-gpt")
_HEAD = "lm_head"
# Settings that make another thing of LoRA when they are set, with what to call it.
_NOT_PLAIN = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA with biases",
    "layer_replication": "LoRA with replicated layers",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "LoRA on bare parameters",
    "alora_invocation_tokens": "activated LoRA",
}
_HARMLESS_VARIANTS = ("use_rslora", "eva_config")
_MERGE_WITH_PEFT = "Merge it with PEFT (`merge_and_unload`, then `save_pretrained`) and publish that folder"
# PEFT, too, can be wrong when it merges such an adapter later: it draws a random beginning (`pissa_niter_4`) anew.
_MAKE_PLAIN = (
    "Where it was trained, save it with PEFT's `path_initial_model_for_weight_conversion`, which makes it plain LoRA, "
    "or merge it there (`merge_and_unload`, then `save_pretrained`) and publish that folder"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTensor:
    """One tensor of the adapter's file."""

    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """What is added to one weight: `scale` · B · A, transposed where the weight is stored as (I, O).

    Attributes:
        a: Shape (R, I).
        b: Shape (O, R).
    """

    a: AdapterTensor
    b: AdapterTensor
    scale: float
    is_transposed: bool
    is_embedding: bool

    @property
    def delta_shape(self) -> tuple[int, ...]:
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.is_transposed else shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A plain LoRA adapter, by the names of the base's weights.

    Attributes:
        replacements: Weights that were trained whole (`modules_to_save`).
    """

    folder: Path
    pairs: Mapping[str, LoraPair]
    replacements: Mapping[str, AdapterTensor]


def read_adapter(folder: Path, *, model_type: str) -> Adapter:
    """The adapter in `folder`.

    Args:
        model_type: Of the base model, as its config has it; tells which layers are stored transposed.

    Raises:
        NotACheckpointError: It is none, or not plain LoRA: says what it is.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise NotACheckpointError(
                f"{folder} has no {name}, so it is no adapter and nothing was merged: name a folder that PEFT saved "
                "as safetensors"
            )
    config = read_json_object(folder / ADAPTER_CONFIG)
    _check_plain(folder, config)
    is_transposed = model_type in _TRANSPOSED_MODELS
    if config.get("fan_in_fan_out") and not is_transposed:
        raise refused(folder, f"fan_in_fan_out is set, but no layer of {model_type} is known to be stored transposed")
    sides: dict[str, dict[str, AdapterTensor]] = {}
    replacements: dict[str, AdapterTensor] = {}
    for tensor in weights.read_header(folder / ADAPTER_WEIGHTS):
        _sort_in(folder, tensor, sides=sides, replacements=replacements)
    pairs = {
        f"{module}.weight": _pair(folder, config, module, found=found, is_transposed=is_transposed and module != _HEAD)
        for module, found in sides.items()
    }
    return Adapter(folder=folder, pairs=pairs, replacements=replacements)


def _check_plain(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise refused(folder, f"its type is {kind}, not LORA")
    if config.get("bias", "none") != "none":
        raise refused(folder, f"it trains biases (bias: {config['bias']})")
    if config.get("init_lora_weights") not in _PLAIN_BEGINNINGS:
        because = f"init_lora_weights is {config['init_lora_weights']}, which changes the base model"
        raise refused(folder, because, instead=_MAKE_PLAIN)
    for key, value in sorted(config.items()):
        is_variant = key in _NOT_PLAIN or key.endswith("_config") or key.startswith("use_")
        if value and is_variant and key not in _HARMLESS_VARIANTS:
            raise refused(folder, f"it is {_NOT_PLAIN.get(key, 'not plain LoRA')} ({key} is set)")


def _sort_in(
    folder: Path,
    tensor: TensorInfo,
    *,
    sides: dict[str, dict[str, AdapterTensor]],
    replacements: dict[str, AdapterTensor],
) -> None:
    """Put one tensor where it belongs: a side of a pair, or a whole weight."""
    name = tensor.name.removeprefix(_PREFIX)
    found = AdapterTensor(key=tensor.name, shape=tensor.shape)
    matrix = _MATRIX.fullmatch(name)
    if matrix:
        module = _WRAPPERS.sub("", matrix["module"])
        sides.setdefault(module, {})[matrix["side"]] = found
    elif "lora_" in name or not tensor.name.startswith(_PREFIX):
        raise refused(folder, f"its tensor {tensor.name} belongs to something else")
    else:
        replacements[_WRAPPERS.sub("", name)] = found


def _pair(
    folder: Path, config: Mapping[str, Any], module: str, *, found: Mapping[str, AdapterTensor], is_transposed: bool
) -> LoraPair:
    if found.keys() != {"A", "B"}:
        raise refused(folder, f"{module} has only lora_{next(iter(found))}: the save was not finished")
    a, b = found["A"], found["B"]
    rank = _number(folder, config, module, key="r", pattern_key="rank_pattern")
    alpha = _number(folder, config, module, key="lora_alpha", pattern_key="alpha_pattern")
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise refused(folder, f"{module} is no linear layer: lora_A has shape {list(a.shape)}")
    if a.shape[0] != b.shape[1] or a.shape[0] != rank:
        raise refused(folder, f"{module} has rank {a.shape[0]} and {b.shape[1]}, but {rank:g} in {ADAPTER_CONFIG}")
    is_embedding = ".lora_embedding_" in a.key
    return LoraPair(
        a=a,
        b=b,
        scale=alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank,
        is_transposed=is_embedding or is_transposed,
        is_embedding=is_embedding,
    )


def _number(folder: Path, config: Mapping[str, Any], module: str, *, key: str, pattern_key: str) -> float:
    """The rank or alpha of a module: that of the first pattern which its name ends with, else the common one."""
    value = config.get(key)
    for pattern, own in (config.get(pattern_key) or {}).items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise refused(folder, f"{pattern_key} has a malformed pattern {pattern!r} ({error})") from error
        if matches:
            value = own
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise refused(folder, f"{key} of {module} is {value!r}, not a number above 0")
    return float(value)


def check_base(folder: Path) -> None:
    """Say early what is wrong with a base model that adapters shall be merged into.

    Raises:
        NotACheckpointError: It is no checkpoint folder.
    """
    if not (folder / "config.json").is_file():
        raise NotACheckpointError(
            f"{folder} has no config.json, so it is no base model and nothing can be merged into it: name the folder "
            "of the model that the adapter was trained on (of the Hugging Face hub: `hf download NAME --local-dir DIR`)"
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no model of its own."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def refused(folder: Path, because: str, *, instead: str = _MERGE_WITH_PEFT) -> NotACheckpointError:
    """The error that says why an adapter is not merged, and what to do `instead`."""
    return NotACheckpointError(f"adapter {folder} cannot be merged: {because}; nothing was written. {instead}")
