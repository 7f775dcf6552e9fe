"""What the demo asks of the server: which version it serves, and how the last reload went."""

from __future__ import annotations

from datetime import datetime

import httpx
from pydantic import BaseModel, ValidationError

from pipeline.demo.timeline import Reload

TIMEOUT_S = 5.0


class _LastReload(BaseModel):
    version: int
    outcome: str
    reason: str
    started_at: datetime
    ended_at: datetime | None
    seconds: dict[str, float]


class ServerState(BaseModel):
    """The part of `/models/info` that the demo reads."""

    version: int | None
    reason: str
    last_reload: _LastReload | None


def server_state(url: str) -> ServerState | None:
    """What the server says of itself; None when it does not answer."""
    try:
        answer = httpx.get(f"{url}/models/info", timeout=TIMEOUT_S, trust_env=False)
        return ServerState.model_validate_json(answer.raise_for_status().content)
    except (httpx.HTTPError, ValidationError):
        return None


def reload_of(state: ServerState, version: int) -> Reload | None:
    """The finished reload that brought `version` into service; None while it is not served."""
    last = state.last_reload
    if state.version != version or last is None or last.version != version or last.ended_at is None:
        return None
    return Reload(started_at=last.started_at, ended_at=last.ended_at, stage_s=last.seconds)


def is_refused(state: ServerState, version: int) -> bool:
    """Whether the server has refused `version`; `state.reason` says why."""
    last = state.last_reload
    return last is not None and last.version == version and last.outcome == "refused"
