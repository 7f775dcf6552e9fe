"""Whether an engine fits beside those that live: decided from headers and free memory, before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

from server import gpu
from server.engine_memory import device_of, estimated_weight_bytes, free_bytes, overhead_bytes, weight_bytes

__all__ = [
    "Plan",
    "degraded",
    "device_of",
    "estimated_weight_bytes",
    "free_bytes",
    "overhead_bytes",
    "plan",
    "weight_bytes",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a version would be started.

    Attributes:
        mode: `beside`; `beside-after-stopping-previous`; or `no-room`.
        needed_bytes: Weights in the dtype they would have, and overhead.
        free_bytes: Free on the device now; None when it cannot be told.
    """

    mode: str
    device: str
    needed_bytes: int
    free_bytes: int | None
    because: str


def plan(*, device: str, needed: int, free: int | None, warm: int, reserve: int) -> Plan:
    """Say how a start would go.

    Args:
        needed: What the new engine takes, in bytes.
        free: What is free, in bytes; None for unknown: try, since an engine that fails hurts nobody.
        warm: What stopping the warm previous engine would give back, in bytes.
        reserve: What must stay free, in bytes.
    """
    sizes = f"needs {needed / 1e9:.2f} GB and {reserve / 1e9:.2f} GB to spare"
    if free is None:
        mode, because = "beside", f"{sizes}; free memory of {device} is unknown"
    elif free >= needed + reserve:
        mode, because = "beside", f"{sizes}; {free / 1e9:.2f} GB are free on {device}"
    elif warm and free + warm >= needed + reserve:
        mode = "beside-after-stopping-previous"
        because = (
            f"{sizes}; {free / 1e9:.2f} GB are free on {device}, {warm / 1e9:.2f} GB more without the previous engine"
        )
    else:
        mode, because = "no-room", f"{sizes}; only {free / 1e9:.2f} GB are free on {device}"
    return Plan(mode=mode, device=device, needed_bytes=needed, free_bytes=free, because=because)


def degraded(setting: str, device: str) -> str:
    """What is worse about an engine than people will think: `auto` that fell to the CPU of a machine with a card.

    Args:
        setting: `engine.device`.
        device: Where the engine runs.
    """
    if setting != "auto" or device != "cpu" or not gpu.is_expected():
        return ""
    return (
        "engine.device is auto and the engine runs on the CPU, although this machine has nvidia-smi: look at what "
        "nvidia-smi says, or set engine.device to cpu"
    )
