"""How evaluations are run, apart from the engine's own settings; and whether the GPU has room for one now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry_hooks.errors import EvaluationError
from registry_hooks.settings import EngineSettings, Settings
from server import engine_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """How evaluations are run.

    Attributes:
        deadline_s: Bound on one evaluation, start and end of the engine included.
        ask_timeout_s: Bound on one answer.
        num_at_once: Items that are asked at the same time.
        when_gpu_is_full: `cpu` evaluates there, which other scores cannot be compared with; `wait` gives up for now.
        min_free_bytes: GPU memory that stays free for a trainer beside the engine.
        cache_dir: Where the files of versions are kept; None for `evaluation` below `serve.cache_dir`.
        max_cache_bytes: Bound on that.
    """

    deadline_s: float = 3600.0
    ask_timeout_s: float = 300.0
    num_at_once: int = 32
    when_gpu_is_full: Literal["cpu", "wait"] = "wait"
    min_free_bytes: int = 1_000_000_000
    cache_dir: Path | None = None
    max_cache_bytes: int = 20_000_000_000


def conduct_of(settings: Settings) -> Conduct:
    """As the settings have it."""
    return Conduct(**{name: getattr(settings.evaluate, name) for name in Conduct.__slots__})


def choose_device(directory: Path, settings: EngineSettings, conduct: Conduct) -> str:
    """`cpu` or `cuda`: where the checkpoint in `directory` is evaluated now.

    Raises:
        EvaluationError: The GPU has no room and the CPU is not wanted; transient.
    """
    device = engine_memory.device_of(settings.device)
    if device != "cuda" or settings.command:  # what another program takes nobody knows
        return settings.device if settings.command else device
    weights = engine_memory.weight_bytes(directory, device, settings.dtype)
    needed = weights + engine_memory.overhead_bytes(device, settings.kv_budget_bytes)
    return room_on(device, needed=needed, free=engine_memory.free_bytes(device), conduct=conduct)


def room_on(device: str, *, needed: int, free: int | None, conduct: Conduct) -> str:
    """The device if it has room, else what `conduct` says.

    Args:
        needed: What the engine takes, in bytes.
        free: What is free, in bytes; None for unknown, where an engine beside a trainer could hurt it.

    Raises:
        EvaluationError: There is no room and the CPU is not wanted; transient.
    """
    if free is not None and free >= needed + conduct.min_free_bytes:
        return device
    if conduct.when_gpu_is_full == "cpu":
        return "cpu"
    has = "nobody can tell how much is free" if free is None else f"only {free / 1e9:.2f} GB are free"
    raise EvaluationError(
        f"the GPU has no room: the engine needs {needed / 1e9:.2f} GB, {conduct.min_free_bytes / 1e9:.2f} GB are kept "
        f"free, and {has}; no engine was started, try again once the card is free",
        stage="room",
        transient=True,
    )
