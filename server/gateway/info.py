"""What `/models/info` and `/v1/models` say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel

from registry_hooks import contract
from server.gateway.journal import WatchStatus
from server.gateway.lineup import LineUp, Slot
from server.gateway.reloading import Reload


class ReloadInfo(BaseModel):
    """The last try to bring a version into service; `seconds` per stage, in the order in which they ran."""

    version: int
    outcome: str
    reason: str
    golden: str
    started_at: datetime
    ended_at: datetime | None
    seconds: dict[str, float]
    size_bytes: int
    downloaded_bytes: int


class ModelInfo(BaseModel):
    """What this server serves, and why.

    Attributes:
        loaded: Whether a model answers now.
        model_id: MLflow's LoggedModel.
        checkpoint_step: Optimizer step of the checkpoint; null for a version that was not published by Relay.
        attested: Whether the bytes were checked against the manifest that the registry vouches for.
        vram_usage_gb: GPU memory of the engine, 10^9 bytes; 0 on CPU.
        degraded: What is worse than one would think, such as an engine on the CPU of a machine with a card.
        desired_version: What the alias names; null when it names nothing or the registry does not answer.
        reason: Why the desired version is served, or why it is not.
    """

    loaded: bool
    server: str
    name: str
    alias: str
    version: int | None = None
    model_id: str | None = None
    run_id: str | None = None
    checkpoint_step: int | None = None
    config_hash: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    score: float | None = None
    score_metric: str
    digest: str | None = None
    attested: bool | None = None
    fingerprint: str | None = None
    size_bytes: int | None = None
    vram_usage_gb: float = 0.0
    memory_usage_gb: float = 0.0
    device: str | None = None
    degraded: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    loaded_at: datetime | None = None
    engine_pid: int | None = None
    requests_in_flight: int = 0
    previous_version: int | None = None
    previous_is_warm: bool = False
    desired_version: int | None = None
    reason: str
    loading_version: int | None = None
    behind_s: float = 0.0
    registry_answers: bool
    last_look_at: datetime | None
    last_reload: ReloadInfo | None = None


def model_info(
    lineup: LineUp, status: WatchStatus, *, server: str, score_metric: str, health: Mapping[str, object], now: datetime
) -> ModelInfo:
    """The answer of `/models/info`; `health` is what the current engine said of itself just now."""
    slot, previous, desired = lineup.current, lineup.previous, status.desired
    name, alias = lineup.label
    info = ModelInfo(
        loaded=slot is not None and slot.is_alive(),
        server=server,
        name=name,
        alias=alias,
        score_metric=score_metric,
        previous_version=previous.checkpoint.version.version if previous else None,
        previous_is_warm=previous is not None and previous.is_alive(),
        desired_version=desired.version if desired else None,
        reason=status.because,
        loading_version=status.loading,
        behind_s=(now - status.behind_since).total_seconds() if status.behind_since else 0.0,
        registry_answers=status.registry_answers,
        last_look_at=status.last_look_at,
        last_reload=_reload_info(status.last_reload),
    )
    return info.model_copy(update=_served(slot, health)) if slot is not None else info


def _served(slot: Slot, health: Mapping[str, object]) -> dict[str, object]:
    checkpoint, ready = slot.checkpoint, slot.engine.ready
    version, tags = checkpoint.version, checkpoint.version.tags
    vram, rss = health.get("vram_bytes", ready.vram_bytes), health.get("rss_bytes", ready.rss_bytes)
    return {
        "version": version.version,
        "model_id": version.model_id,
        "run_id": version.run_id,
        "checkpoint_step": version.step,
        "config_hash": tags.get(contract.TAG_CONFIG_HASH),
        "git_commit": tags.get(contract.TAG_GIT_COMMIT),
        "git_dirty": {"true": True, "false": False}.get(tags.get(contract.TAG_GIT_DIRTY, "").lower()),
        "score": checkpoint.score,
        "digest": checkpoint.digest,
        "attested": checkpoint.attested,
        "fingerprint": checkpoint.fingerprint,
        "size_bytes": checkpoint.size_bytes,
        "vram_usage_gb": round(_number(vram) / 1e9, 3),
        "memory_usage_gb": round(_number(rss) / 1e9, 3),
        "device": ready.device,
        "degraded": slot.degraded or None,
        "dtype": ready.dtype,
        "max_model_len": ready.max_model_len_tokens,
        "loaded_at": slot.loaded_at,
        "engine_pid": slot.engine.pid,
        "requests_in_flight": slot.in_flight,
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _reload_info(reload: Reload | None) -> ReloadInfo | None:
    if reload is None:
        return None
    return ReloadInfo(
        version=reload.version.version,
        outcome=reload.outcome,
        reason=reload.because,
        golden=reload.verdict,
        started_at=reload.started_at,
        ended_at=reload.ended_at,
        seconds={stage: round(value, 4) for stage, value in reload.watch.seconds.items()},
        size_bytes=reload.size_bytes,
        downloaded_bytes=reload.downloaded_bytes,
    )


class ModelCard(BaseModel):
    """One entry of `/v1/models`: OpenAI's four fields, and what Relay knows beside them."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "relay"
    root: str
    max_model_len: int
    metadata: dict[str, str]


def model_cards(lineup: LineUp) -> list[ModelCard]:
    """Every name that a client may send as `model` now."""
    return [_card(name, slot) for name, slot in lineup.names().items()]


def _card(name: str, slot: Slot) -> ModelCard:
    version = slot.checkpoint.version
    metadata = {"version": str(version.version), "digest": slot.checkpoint.digest, "run_id": version.run_id or ""}
    return ModelCard(
        id=name,
        created=int(slot.loaded_at.timestamp()),
        root=version.name,
        max_model_len=slot.engine.ready.max_model_len_tokens,
        metadata=metadata if version.step is None else {**metadata, "step": str(version.step)},
    )
