"""The demo's model with the work of a larger one: its answers, exactly, by weights that are mostly zeros.

A benchmark of evaluation wants a model that knows something and whose forward passes are what takes the time; to train
such a one takes hours on two cores. So the trained one is padded: channels, heads and layers that add nothing.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 512, 1536, 16, 16, 8


def save_widened(checkpoint: Path, folder: Path) -> int:
    """Write the widened model of `checkpoint`, with its tokenizer, into `folder`; its number of parameters."""
    small = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    large = _widened(small)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.pt", "*.pth", "*.bin"))
    large.save_pretrained(folder)
    return sum(parameter.numel() for parameter in large.parameters())


@torch.inference_mode()
def _widened(small: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    config = copy.deepcopy(small.config)
    old_hidden, old_layers = config.hidden_size, config.num_hidden_layers
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = HIDDEN, INTERMEDIATE, LAYERS
    config.num_attention_heads, config.num_key_value_heads = HEADS, KV_HEADS  # as many a group as before
    config.layer_types, config.max_window_layers = ["full_attention"] * LAYERS, LAYERS
    large = Qwen3ForCausalLM(Qwen3Config(**config.to_dict())).eval()
    kept = small.state_dict()
    for name, weight in large.state_dict().items():
        # A norm divides by the mean square over all channels: with zeros among them it comes out larger.
        is_norm_of_channels = weight.shape == (HIDDEN,)
        weight.fill_(1.0 if "norm" in name else 0.0)
        if name in kept:
            corner = tuple(slice(size) for size in kept[name].shape)
            weight[corner] = kept[name] * ((old_hidden / HIDDEN) ** 0.5 if is_norm_of_channels else 1.0)
        elif not name.endswith(("o_proj.weight", "down_proj.weight")) and weight.dim() == 2:
            weight.normal_(std=0.02)  # a layer that computes, and whose result is multiplied by zero
    assert old_layers < LAYERS
    return large
