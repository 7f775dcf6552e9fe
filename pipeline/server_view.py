"""What each server serves: as it answers now or, failing that, as it last wrote into the registry."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from registry_hooks import contract, trust

ASK_TIMEOUT_S = 2.0
_MAX_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One server.

    Attributes:
        is_live: Whether the server itself answered.
        is_stopped: Whether it was stopped on purpose, as it wrote itself.
        seen_s_ago: Seconds since its last heartbeat.
        behind_s: How long the alias has named something that it does not serve; None when nobody knows.
        num_behind: How many versions lie between what it serves and what the alias names; 0 when it is level or
            ahead, None when either is unknown.
    """

    name: str
    url: str
    is_live: bool
    is_stopped: bool
    seen_s_ago: float
    version: int | None
    step: int | None
    behind_s: float | None
    num_behind: int | None
    reason: str


def server_views(tags: Mapping[str, str], *, aliased: int | None, now: datetime) -> list[ServerView]:
    """Ask all servers that have written into the registry, at once; sorted by name.

    Args:
        tags: Of the registered model.
        aliased: The version that the alias names.

    Raises:
        SettingsError: A certificate authority is named that cannot be read.
    """
    prefix = contract.TAG_SERVER_PREFIX
    told = [(key.removeprefix(prefix), text) for key, text in sorted(tags.items()) if key.startswith(prefix)]
    if not told:
        return []
    context = trust.context(os.environ)
    with ThreadPoolExecutor(min(len(told), _MAX_ASKED_AT_ONCE)) as pool:
        return list(pool.map(lambda one: _view(*one, aliased=aliased, now=now, context=context), told))


def _view(
    name: str, heartbeat: str, *, aliased: int | None, now: datetime, context: ssl.SSLContext | None
) -> ServerView:
    try:
        told: Mapping[str, object] = json.loads(heartbeat)
        url, seen = str(told["url"]), datetime.fromisoformat(str(told["seen"]))
        seen_s_ago = (now - seen).total_seconds()
    except (ValueError, KeyError, TypeError):
        told, url = {}, ""
        seen_s_ago = (now - datetime.fromtimestamp(0, UTC)).total_seconds()
    live = {} if told.get("stopped") else _ask(url, context)
    facts = live or told
    version = _whole(live.get("version") if live else told.get("serving"))
    return ServerView(
        name=name,
        url=url,
        is_live=bool(live),
        is_stopped=bool(told.get("stopped")),
        seen_s_ago=seen_s_ago,
        version=version,
        step=_whole(live.get("checkpoint_step") if live else told.get("step")),
        behind_s=_seconds(live.get("behind_s")) if live else None,
        num_behind=max(0, aliased - version) if aliased is not None and version is not None else None,
        reason="stopped" if told.get("stopped") else str(facts.get("reason") or facts.get("because") or ""),
    )


def _ask(url: str, context: ssl.SSLContext | None) -> Mapping[str, object]:
    try:
        answer = httpx.get(f"{url}/models/info", timeout=ASK_TIMEOUT_S, trust_env=False, verify=context or True)
        document = answer.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
