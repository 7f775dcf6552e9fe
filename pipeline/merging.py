"""Merges a LoRA adapter into its base model, shard by shard: W + (alpha / r) · B · A, as PEFT has it.

What is not plain LoRA is refused by name: a merge that is nearly right would be served without anybody noticing.
Checked beside peft 0.21.2 with small random models (GPT-2, GPT-NeoX, Llama, Mamba, Mistral, OpenAI GPT, OPT, Qwen3):
the weights of its `merge_and_unload`, or a refusal. Only where a base holds an output head although its config ties it,
and LoRA changes one of the two, they differ: PEFT merges into both, this into the one that was trained.

Source: https://github.com/huggingface/peft (`tuners/lora/layer.py`, `get_delta_weight`; `utils/save_and_load.py`).
Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.adapter import ADAPTER_WEIGHTS, Adapter, AdapterTensor, read_adapter, refused
from pipeline.conversion import readable
from pipeline.trainer_state import STATE_FILE
from pipeline.training_arguments import TRAINING_ARGS_FILE
from registry_hooks import contract, weights
from registry_hooks.checkpoint_files import CONFIG_FILE, SINGLE_WEIGHTS, WEIGHTS_INDEX, read_json_object
from registry_hooks.errors import CorruptFileError, NotACheckpointError
from registry_hooks.weights import TensorInfo

_OUTPUT_HEADS = ("lm_head.weight", "embed_out.weight")
_INPUT_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embeddings.weight", "embed_in.weight", "tokens_embed.weight")
# PEFT adds what LoRA learned for one of the two to both.
_UNTIE = (
    "PEFT's merge may change both, which is another model: save the base with tie_word_embeddings false and a copy of "
    "its embeddings as lm_head.weight, and merge into that"
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The base model: which shard holds which tensor."""

    folder: Path
    model_type: str
    shards: tuple[str, ...]
    tensors: dict[str, TensorInfo]


def merge_adapter(adapter: Path, base: Path, target: Path) -> None:
    """Write into the folder `target` the model that `base` with `adapter` is: same dtype, same shards as the base.

    Step and metrics are the adapter's, and so is the tokenizer where it has one. Computes in float32 and holds one
    shard of the base in memory at a time. The same folders give the same bytes.

    Args:
        target: Is made; best named as the adapter's folder, whose name may tell the step.

    Raises:
        NotACheckpointError: The adapter is not plain LoRA or does not fit the base; nothing is written.
        CorruptFileError: A merged weight is not finite, or a file cannot be read any more.
    """
    source = _base(base)
    read = read_adapter(adapter, model_type=source.model_type)
    _check_fit(read, source)
    target.mkdir(parents=True)
    with readable(adapter), safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as tensors:
        for shard in source.shards:
            _merge_shard(source.folder / shard, target / shard, read, tensors)
    _copy_companions(adapter, base, target)
    saved = (adapter / ADAPTER_WEIGHTS).stat()
    for path in target.iterdir():  # the merged checkpoint was saved when its adapter was
        if not (adapter / path.name).is_file():
            os.utime(path, ns=(saved.st_atime_ns, saved.st_mtime_ns))


def _base(folder: Path) -> _Base:
    if not (folder / CONFIG_FILE).is_file():
        raise NotACheckpointError(
            f"{folder} has no {CONFIG_FILE}, so it is no base model and nothing was merged: name the folder of the "
            "model that the adapter was trained on"
        )
    config = read_json_object(folder / CONFIG_FILE)
    if "quantization_config" in config:
        raise NotACheckpointError(f"{folder} is quantized; nothing was merged: name the base model in full precision")
    if (folder / WEIGHTS_INDEX).is_file():
        weight_map = read_json_object(folder / WEIGHTS_INDEX).get("weight_map")
        names = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
    else:
        names = {SINGLE_WEIGHTS}
    missing = sorted(name for name in names if Path(name).name != name or not (folder / name).is_file())
    if missing or not names:
        raise NotACheckpointError(
            f"{folder} has no {missing[0] if missing else 'weights'}; nothing was merged: only safetensors can be "
            "merged, get the base model again"
        )
    tensors = {tensor.name: tensor for name in sorted(names) for tensor in weights.read_header(folder / name)}
    return _Base(folder=folder, model_type=str(config.get("model_type")), shards=tuple(sorted(names)), tensors=tensors)


def _check_fit(adapter: Adapter, base: _Base) -> None:
    for name in sorted({*adapter.pairs, *adapter.replacements}):
        if name not in base.tensors:
            because = f"it changes {name}, which {base.folder} has not: the base"
            if name in _OUTPUT_HEADS:
                raise refused(adapter.folder, f"{because} uses its embeddings as its output head", instead=_UNTIE)
            raise refused(adapter.folder, f"{because} is another model, or names it otherwise")
    for name, pair in adapter.pairs.items():
        _check_shape(adapter, name, pair.delta_shape, base)
    for name, replacement in adapter.replacements.items():
        _check_shape(adapter, name, replacement.shape, base)
    if any(name in base.tensors for name in _OUTPUT_HEADS):
        return
    touched = [name for name in (*adapter.pairs, *adapter.replacements) if name.endswith(_INPUT_EMBEDDINGS)]
    touched += [name for name, pair in adapter.pairs.items() if pair.is_embedding]
    if touched:
        because = f"it changes {touched[0]}, which the base may also use as its output head, and the adapter did not"
        raise refused(adapter.folder, because, instead=_UNTIE)


def _check_shape(adapter: Adapter, name: str, shape: tuple[int, ...], base: _Base) -> None:
    tensor = base.tensors[name]
    if tensor.dtype not in weights.DTYPE_NAMES:
        raise refused(adapter.folder, f"{name} of {base.folder} is {tensor.dtype}, which is quantized")
    if tensor.shape != shape:
        grown = name.endswith((*_INPUT_EMBEDDINGS, *_OUTPUT_HEADS))
        hint = ": the vocabulary was resized in training" if grown else ": the base is another model"
        raise refused(
            adapter.folder, f"{name} has shape {list(shape)}, but {list(tensor.shape)} in {base.folder}{hint}"
        )


def _merge_shard(source: Path, target: Path, adapter: Adapter, tensors: safe_open) -> None:
    with readable(source), safe_open(source, framework="pt") as shard:
        metadata = shard.metadata() or {"format": "pt"}
        merged = {name: _merged(name, shard.get_tensor(name), adapter, tensors) for name in sorted(shard.keys())}
    save_file(merged, target, metadata=metadata)


def _merged(name: str, weight: torch.Tensor, adapter: Adapter, tensors: safe_open) -> torch.Tensor:
    replacement, pair = adapter.replacements.get(name), adapter.pairs.get(name)
    if replacement is None and pair is None:
        return weight
    exact = _get(tensors, replacement) if replacement else weight.float()
    if pair is not None:
        delta_OI = pair.scale * (_get(tensors, pair.b) @ _get(tensors, pair.a))
        exact = exact + (delta_OI.T if pair.is_transposed else delta_OI)
    result = exact.to(weight.dtype).contiguous()
    if not torch.isfinite(result).all():
        raise CorruptFileError(
            f"{name} is not finite after {adapter.folder} was merged into it, so nothing was published: the training "
            "diverged, or the base's dtype is too small"
        )
    return result


def _get(tensors: safe_open, tensor: AdapterTensor) -> torch.Tensor:
    value: torch.Tensor = tensors.get_tensor(tensor.key)  # type: ignore[no-untyped-call]
    return value.float()


def _copy_companions(adapter: Path, base: Path, target: Path) -> None:
    """Everything but weights: the model's words from the base, the training's and the tokenizer's from the adapter."""
    names = [path.name for path in base.iterdir() if path.is_file()]
    chosen = {
        name: base / name
        for name in contract.published_files(names)
        if not name.endswith(".safetensors") and name not in (STATE_FILE, *contract.TOKENIZER_FILES)
    }
    has_own = any((adapter / name).is_file() for name in _VOCABULARIES)
    speaker = adapter if has_own else base
    chosen |= {name: speaker / name for name in contract.TOKENIZER_FILES if (speaker / name).is_file()}
    chosen |= {name: adapter / name for name in (STATE_FILE, TRAINING_ARGS_FILE) if (adapter / name).is_file()}
    for name, path in chosen.items():
        shutil.copy2(path, target / name)
