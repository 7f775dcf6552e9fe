"""Whether a model is batched or served one request at a time: decided at load, by proof where no test has proved it."""

from __future__ import annotations

import torch

from registry_hooks import events
from server.engine import attention, slots
from server.engine.attention import UnsupportedAttentionError
from server.engine.batching import Batch
from server.engine.generation import OneAtATime
from server.engine.loading import LoadedModel
from server.engine.packing import Piece, pack
from server.engine.rope_border import border_of
from server.engine.scheduling import Runner
from server.engine.slots import Slots

# Families whose packed pass the tests compare with `generate`, token for token.
PROVED = ("qwen3", "qwen2", "llama", "mistral", "gpt2")
_LAYER_TYPES = ("full_attention", "sliding_attention")
# Largest difference of two logits, as a share of the largest logit.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}


def runner_of(loaded: LoadedModel, *, kv_budget_bytes: int = 0) -> Runner:
    """The batch where the model allows it; else one request at a time, which the log says and why."""
    own_attention = loaded.model.config._attn_implementation  # not every family has the same ones
    try:
        return _batch_of(loaded, kv_budget_bytes)
    except Exception as error:  # noqa: BLE001 - whatever a model's code raises, it can still be served alone
        loaded.model.set_attn_implementation(own_attention)
        events.logger().warning("batching.refused", model=type(loaded.model).__name__, because=str(error))
        return OneAtATime(loaded, because=str(error))


def _batch_of(loaded: LoadedModel, kv_budget_bytes: int) -> Batch:
    config = loaded.model.config.get_text_config()
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYER_TYPES))
    if odd:
        raise UnsupportedAttentionError(f"it has layers of type {odd[0]}")
    border = border_of(config)
    if border is not None and loaded.max_model_len_tokens > border:
        raise UnsupportedAttentionError(
            f"its rotary frequencies change for all requests of a pass when one is longer than {border} tokens; with a "
            f"max_model_len_tokens of at most {border} requests share passes"
        )
    is_proved = config.model_type in PROVED
    expected_NV = None if is_proved else _plain_logits(loaded)
    shape = slots.shape_of(
        loaded.model,
        max_len_tokens=loaded.max_model_len_tokens,
        device=loaded.device,
        budget_bytes=kv_budget_bytes,
    )
    rows = Slots(shape, dtype=next(loaded.model.parameters()).dtype, device=loaded.device)
    attention.install(loaded.model)
    if expected_NV is not None:
        _prove(loaded, rows, expected_NV)
    return Batch(loaded, rows)


def _prompts(loaded: LoadedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two short prompts of different lengths, of tokens that every model has."""
    top = loaded.vocab_size
    return tuple(number % top for number in (1, 2, 3, 5, 8)), tuple(number % top for number in (7, 4, 9))


@torch.inference_mode()
def _plain_logits(loaded: LoadedModel) -> torch.Tensor:
    """The last logits of each prompt, by the model's own attention."""
    last = []
    for prompt in _prompts(loaded):
        ids_1T = torch.tensor([prompt], device=loaded.device)
        last.append(loaded.model(input_ids=ids_1T, use_cache=False).logits[0, -1].float())
    return torch.stack(last)


@torch.inference_mode()
def _prove(loaded: LoadedModel, rows: Slots, expected_NV: torch.Tensor) -> None:
    """Compare a packed pass with the plain ones: first all tokens but the last of each prompt, then those as decoding.

    Raises:
        UnsupportedAttentionError: They differ.
    """
    first, second = _prompts(loaded)
    reading = [Piece(row=0, past=0, tokens=first[:-1]), Piece(row=1, past=0, tokens=second[:-1])]
    decoding = [
        Piece(row=0, past=len(first) - 1, tokens=first[-1:]),
        Piece(row=1, past=len(second) - 1, tokens=second[-1:]),
    ]
    batch = Batch(loaded, rows)
    with attention.noted_windows() as windows:
        for pieces, num_decoding in ((reading, 0), (decoding, 2)):
            packed = pack(pieces, num_decoding=num_decoding, call_places=rows.call_places, device=loaded.device)
            seen_NV = batch.forward(packed)
    for row in (0, 1):
        rows.clear(row)
    difference = float((seen_NV - expected_NV).abs().max() / expected_NV.abs().max().clamp(min=1.0))
    if not difference <= _TOLERANCE[loaded.dtype]:
        raise UnsupportedAttentionError(f"a packed pass gives other logits than a plain one, by {difference:.2g}")
    window = _window(loaded)
    if window and not any(windows):
        raise UnsupportedAttentionError(f"its layers keep to themselves that they see {window} tokens back only")


def _window(loaded: LoadedModel) -> int:
    """The sliding window of some layers, in tokens; 0 where there is none, or no text is longer.

    The prompts of the proof are shorter than most: what they cannot show must be said.
    """
    config = loaded.model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or 0
    is_used = not layer_types or "sliding_attention" in layer_types
    return window if is_used and window < loaded.max_model_len_tokens else 0
