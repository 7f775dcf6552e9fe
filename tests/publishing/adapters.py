"""Builds adapters as PEFT saves them, and merges them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipeline.merging import merge_adapter

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


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
