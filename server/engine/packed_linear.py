"""Linear layers whose weights are laid out once, at load, the way oneDNN reads them: on some CPUs twice as fast.

Shapes: N tokens, I features in, O features out. The operator is private to torch, so every use falls back to torch's
own layer; which one a layer gets is decided by a timing of its shape, here and now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from registry_hooks import events

# The passes of a busy small server: a few decoding requests.
TIMED_TOKENS = 4
# Best of so many, in turns: beside a busy neighbour most calls are interrupted, and either may have all the bad luck.
NUM_TIMINGS = 16
# Laying out takes seconds a gigabyte, at every start; large models are bound by memory and gain little.
MAX_BYTES = 1_000_000_000


def few_sizes(number: int) -> int:
    """The next greater of eight sizes to each doubling, which are all that a packed layer should meet.

    For every number of tokens that a layer meets oneDNN makes a program anew: 0.2 to 1.1 MB and 0.6 to 0.9 ms, or some
    4 ms for a head of 16,384 tokens, measured on a model of 29 M parameters. By default it keeps 1,024 of them.
    """
    step = 1 << max(0, number.bit_length() - 4)
    return -(-number // step) * step


def has_packed(model: nn.Module) -> bool:
    """Whether any layer of `model` is a packed one."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


class PackedLinear(nn.Module):
    """A linear layer in oneDNN's own layout; float32 on CPU."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias_O = None if layer.bias is None else layer.bias.detach()

    def forward(self, input_NI: torch.Tensor) -> torch.Tensor:
        output_NO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input_NI, self.packed_weight, self.bias_O, "none", [], ""
        )
        return output_NO


@torch.inference_mode()
def pack_linears(model: Any) -> int:
    """Replace the linear layers of `model` that a timing says are faster packed; how many were."""
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]
    if sum(layer.weight.nbytes for _, layer in layers) > MAX_BYTES:
        return 0
    verdicts: dict[tuple[int, int], bool] = {}
    num_packed = 0
    try:
        for name, layer in layers:
            shape = (layer.in_features, layer.out_features)
            packed = PackedLinear(layer) if verdicts.get(shape, True) else None
            if packed is not None and shape not in verdicts:
                verdicts[shape] = _is_faster(packed, layer)
            if packed is not None and verdicts[shape]:
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, packed)
                num_packed += 1
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        events.logger().info("linears.not_packed", because=f"{type(error).__name__}: {str(error)[:200]}")
    else:
        events.logger().info("linears.packed", num_packed=num_packed, num_layers=len(layers))
    return num_packed


def _is_faster(packed: PackedLinear, layer: nn.Linear) -> bool:
    input_NI = torch.randn(TIMED_TOKENS, layer.in_features)
    expected_NO = linear(input_NI, layer.weight, layer.bias)
    if not torch.allclose(packed(input_NI), expected_NO, rtol=1e-3, atol=1e-3 * float(expected_NO.abs().max())):
        return False
    packed_s = stock_s = float("inf")
    for _ in range(NUM_TIMINGS):
        packed_s = min(packed_s, _seconds(lambda: packed(input_NI)))
        stock_s = min(stock_s, _seconds(lambda: linear(input_NI, layer.weight, layer.bias)))
    return packed_s < stock_s


def _seconds(call: Callable[[], torch.Tensor]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
