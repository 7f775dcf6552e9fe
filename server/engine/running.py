"""An engine whose model is in memory, and what it says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from server.engine.identity import Identity
from server.engine.loading import LoadedModel
from server.engine.scheduling import Engine
from server.engine_spec import EngineReady

# What only another program in the engine's place has to say of itself.
_OF_SUBSTITUTES = ("base_url", "model_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEngine:
    """All that the API needs.

    Attributes:
        load_s: Seconds from the wish to weights in memory and checked.
    """

    engine: Engine
    loaded: LoadedModel
    identity: Identity
    load_s: float

    def ready(self) -> EngineReady:
        """What a launcher wants to know."""
        return EngineReady(
            device=self.loaded.device,
            dtype=self.loaded.dtype,
            vram_bytes=self._vram_bytes(),
            rss_bytes=psutil.Process().memory_info().rss,
            num_parameters=self.loaded.num_parameters,
            max_model_len_tokens=self.loaded.max_model_len_tokens,
            load_s=self.load_s,
        )

    def health(self) -> dict[str, Any]:
        """The body of `/health`."""
        return {
            **{name: value for name, value in asdict(self.ready()).items() if name not in _OF_SUBSTITUTES},
            "status": "broken" if self.engine.is_broken else "ok",
            "num_rows": self.engine.num_rows,
            "num_kv_tokens": self.engine.num_places,
            "one_at_a_time_because": self.engine.one_at_a_time_because,
            "model_name": self.identity.model_name,
            "system_fingerprint": self.identity.fingerprint,
            "num_running": self.engine.num_running,
            "num_waiting": self.engine.num_waiting,
        }

    def decode(self, ids: list[int]) -> str:
        """Text of tokens, without special ones."""
        return self.loaded.decode(ids)

    def _vram_bytes(self) -> int:
        """What torch's allocator holds on the GPU; reading its counters is no torch operation."""
        return int(torch.cuda.memory_reserved()) if self.loaded.device == "cuda" else 0
