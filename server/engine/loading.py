"""Strict load: a checkpoint is served whole and finite or not at all. Called in the engine's thread only."""

from __future__ import annotations

import contextlib
import inspect as signatures
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedTokenizerFast

from registry_hooks.checkpoint_files import CheckpointFiles, inspect
from registry_hooks.errors import DeclinedError, NotACheckpointError, SettingsError
from server.engine.from_pretrained import load_model, load_tokenizer, only_listed
from server.engine.token_texts import TokenTexts

DEFAULT_MAX_LEN_TOKENS = 4096
# Each operation of a smaller model is over before a second thread has begun: measured, a fifth more tokens with one.
_PARAMETERS_PER_THREAD = 4_000_000
# A tokenizer class with a method of its own keeps it.
_TRANSFORMERS_DECODE = (PreTrainedTokenizerFast.decode, PreTrainedTokenizerFast._decode)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load; the fields are those of `EngineSpec`."""

    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 0
    max_model_len_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory, with what is needed to generate from it.

    Attributes:
        model: A transformers causal language model.
        tokenizer: Its tokenizer. Safe to use outside the engine's thread: it does no torch work.
        eos_ids: Tokens that end an answer.
        token_texts: What each token says by itself.
        vocab_size: Rows of the embedding; what the model reads and says is below it. The tokenizer may have more.
        keeps_logits: Whether `forward` takes `logits_to_keep`.
    """

    model: Any
    tokenizer: Any
    token_texts: TokenTexts
    device: str
    dtype: str
    eos_ids: frozenset[int]
    vocab_size: int
    num_parameters: int
    max_model_len_tokens: int
    keeps_logits: bool

    def decode(self, ids: list[int]) -> str:
        """Text of tokens, without special ones."""
        tokenizer = self.tokenizer
        if (type(tokenizer).decode, getattr(type(tokenizer), "_decode", None)) == _TRANSFORMERS_DECODE:
            # The same, without transformers' look at every id for tensors: twice a token, it counts.
            plain: str = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
            return plain
        text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def load(folder: Path, options: LoadOptions) -> LoadedModel:
    """Load the checkpoint in `folder`.

    Raises:
        NotACheckpointError: It is not whole, not finite, needs code or pickles, or does not fit its own config.
        SettingsError: This machine has no such device, or the model no such length.
    """
    files = inspect(folder)
    device = _device(options.device)
    dtype = _dtype(options.dtype, files, device)
    if device == "cpu":
        torch.set_num_threads(options.num_threads or _num_cores())
    with only_listed(files) as place:
        tokenizer = load_tokenizer(files, place)
        model = load_model(files, place, _DTYPES[dtype])
    _check_vocabulary(folder, tokenizer, model)
    model.to(device)
    _check_finite(folder, model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if device == "cpu" and not options.num_threads:
        torch.set_num_threads(max(1, min(_num_cores(), num_parameters // _PARAMETERS_PER_THREAD)))
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        token_texts=TokenTexts(tokenizer),
        device=device,
        dtype=dtype,
        eos_ids=_eos_ids(model, tokenizer, files),
        vocab_size=_num_embeddings(model),
        num_parameters=num_parameters,
        max_model_len_tokens=_max_len(model, options.max_model_len_tokens),
        keeps_logits="logits_to_keep" in signatures.signature(model.forward).parameters,
    )


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device cuda: this machine has no CUDA device that torch can use; use cpu or auto")
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _num_cores() -> int:
    """The physical cores that are ours; from four on, one is left to the event loop and the neighbours."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_cores = min(allowed, psutil.cpu_count(logical=False) or allowed)
    return num_cores - 1 if num_cores >= 4 else num_cores


def _dtype(wanted: str, files: CheckpointFiles, device: str) -> str:
    """bfloat16 is very slow on CPUs without AMX, so `auto` computes in float32 there."""
    if wanted != "auto":
        return wanted
    return files.saved_dtype if device == "cuda" and files.saved_dtype in _DTYPES else "float32"


def _check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """A token that was added without resizing the embedding harms nobody who does not use it; a vocabulary that is
    larger by itself is another model's.
    """
    added, rows = tokenizer.added_tokens_decoder, _num_embeddings(model)
    largest = max((one for one in tokenizer.get_vocab().values() if one not in added), default=-1)
    if largest >= rows:
        raise NotACheckpointError(
            f"the tokenizer in {folder} has a token {largest}, the model's embedding ends at {rows - 1}: "
            "they do not belong together; nothing is served"
        )


def _check_finite(folder: Path, model: Any) -> None:
    with _one_thread():
        bad = [
            name for name, weight in model.named_parameters() if weight.is_floating_point() and not _is_finite(weight)
        ]
    if bad:
        raise NotACheckpointError(
            f"the weights in {folder} hold NaN or infinity (in {bad[0]}): nothing is served; "
            "the training diverged, take an earlier checkpoint"
        )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Short operations in one thread: beside a busy neighbour, each one shared by two waits for a scheduler's slice."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@torch.inference_mode()
def _is_finite(tensor: torch.Tensor) -> bool:
    """One pass without a copy: a NaN or an infinity survives into the smallest or the largest value."""
    smallest, largest = torch.aminmax(tensor)
    return bool(torch.isfinite(smallest) & torch.isfinite(largest))


def _eos_ids(model: Any, tokenizer: Any, files: CheckpointFiles) -> frozenset[int]:
    """All tokens that anybody calls the end: a chat fine-tune often says it in its tokenizer alone.

    Of the config only what is written there and no plain piece of text: `save_pretrained` writes the default of the
    model's class too, which is a token of another tokenizer, and answers would end in the middle of a word.
    """
    text_config = files.config.get("text_config")
    written = (files.config, text_config if isinstance(text_config, dict) else {})
    of_config = {one for config in written for one in _ids(config.get("eos_token_id"))}
    plain = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder)
    return _ids(model.generation_config.eos_token_id) | _ids(tokenizer.eos_token_id) | (of_config - plain)


def _ids(said: Any) -> frozenset[int]:
    """The ids of a field that is one, a list of them, or not there."""
    return frozenset(one for one in (said if isinstance(said, list) else [said]) if type(one) is int)


def _num_embeddings(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _max_len(model: Any, wanted: int) -> int:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_MAX_LEN_TOKENS
    if wanted > longest:
        raise DeclinedError(f"max_model_len_tokens {wanted}: the model was made for {longest}; use at most that")
    return wanted or min(longest, DEFAULT_MAX_LEN_TOKENS)
