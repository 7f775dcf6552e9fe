"""What `POST /models/reload` answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pydantic import BaseModel, Field

from server.gateway.control import Preview
from server.gateway.journal import WatchStatus
from server.gateway.lineup import LineUp, identity

HTTP_STATUS = {
    "reloaded": 200,
    "unchanged": 200,
    "planned": 200,
    "pending": 202,
    "refused": 409,
    "declined": 409,
    "failed": 409,
    "no_alias": 409,
    "registry_unreachable": 503,
}


class PlanInfo(BaseModel):
    """How the version would be started: `mode` is `beside`, `beside-after-stopping-previous` or `no-room`."""

    mode: str
    device: str
    needed_bytes: int
    free_bytes: int | None
    reason: str


class ReloadAnswer(BaseModel):
    """The outcome of a look at the alias.

    Attributes:
        status: A key of `HTTP_STATUS`.
        version: What is served now.
        checkpoint_step: Its step.
        action: What a dry run found: `keep`, `load`, `fliptowarm`, `restart` or `bootfromcache`.
    """

    status: str
    reason: str
    version: int | None = None
    checkpoint_step: int | None = None
    vram_usage_gb: float = 0.0
    desired_version: int | None = None
    action: str | None = None
    plan: PlanInfo | None = None
    http_status: int = Field(200, exclude=True)


def describe(lineup: LineUp, status: WatchStatus, *, asked_at: datetime, pending: bool = False) -> ReloadAnswer:
    """Say what came of a look at the alias that was asked for at `asked_at`."""
    word = "pending" if pending else _word(lineup, status, asked_at)
    return _answer(lineup, status, word, status.because)


def planned(lineup: LineUp, status: WatchStatus, preview: Preview) -> ReloadAnswer:
    """Say what a look at the alias would lead to."""
    answer = _answer(lineup, replace(status, desired=preview.seen.version), "planned", preview.action.because)
    plan = preview.plan
    if plan is not None:
        answer.plan = PlanInfo(
            mode=plan.mode,
            device=plan.device,
            needed_bytes=plan.needed_bytes,
            free_bytes=plan.free_bytes,
            reason=plan.because,
        )
    answer.action = type(preview.action).__name__.lower()
    return answer


def _word(lineup: LineUp, status: WatchStatus, asked_at: datetime) -> str:
    slot, desired, last = lineup.current, status.desired, status.last_reload
    if not status.registry_answers:
        return "registry_unreachable"
    if desired is None:
        return "no_alias"
    if slot is not None and slot.is_alive() and slot.checkpoint.key == identity(desired):
        is_new = last is not None and last.ended_at is not None and last.ended_at >= asked_at
        return "reloaded" if is_new else "unchanged"
    key, outcome = status.not_served or (None, "")
    return outcome if key == identity(desired) else "failed"


def _answer(lineup: LineUp, status: WatchStatus, word: str, because: str) -> ReloadAnswer:
    slot, desired = lineup.current, status.desired
    return ReloadAnswer(
        status=word,
        reason=because,
        version=slot.checkpoint.version.version if slot else None,
        checkpoint_step=slot.checkpoint.version.step if slot else None,
        vram_usage_gb=round(slot.engine.ready.vram_bytes / 1e9, 3) if slot else 0.0,
        desired_version=desired.version if desired else None,
        http_status=HTTP_STATUS[word],
    )
