"""`relay status`: what the alias says, what each server really serves, and how far apart they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from rich.console import Console
from rich.table import Table

from registry_hooks import contract
from registry_hooks.ports import ModelOverview
from registry_hooks.records import RunRecord
from registry_hooks.settings import Settings

ASK_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One server, as it answers now or, failing that, as it last wrote into the registry.

    Attributes:
        is_live: Whether the server itself answered.
        seen_s_ago: Seconds since its last heartbeat.
        behind_s: How long the alias has named something that it does not serve; None when nobody knows.
    """

    name: str
    url: str
    is_live: bool
    seen_s_ago: float
    version: int | None
    step: int | None
    behind_s: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that `relay status` prints."""

    name: str
    alias: str
    aliased_version: int | None
    look_alikes: list[str]
    servers: list[ServerView]
    last_deployment: RunRecord | None


def overview(registry: ModelOverview, settings: Settings, *, now: datetime) -> Overview:
    """Read the registry, and ask each server that has written there.

    Raises:
        UnknownModelError: There is no such registered model.
        RegistryUnavailableError: The registry does not answer.
    """
    name, alias = settings.registry.name, settings.registry.alias
    aliases, tags = registry.aliases(name), registry.model_tags(name)
    deployments = registry.latest_runs(contract.deployments_experiment(name), 1)
    prefix = contract.TAG_SERVER_PREFIX
    return Overview(
        name=name,
        alias=alias,
        aliased_version=aliases.get(alias),
        look_alikes=contract.look_alikes(aliases, alias),
        servers=[_server(k.removeprefix(prefix), v, now) for k, v in sorted(tags.items()) if k.startswith(prefix)],
        last_deployment=deployments[0] if deployments else None,
    )


def show(view: Overview, console: Console) -> None:
    """Print it for people."""
    target = f"version {view.aliased_version}" if view.aliased_version else "nothing: the alias is not set"
    console.print(f"{view.name}@{view.alias} names [bold]{target}[/bold]")
    for other in view.look_alikes:
        console.print(f"[yellow]note: there is also an alias {other!r}; servers follow {view.alias!r} only[/yellow]")
    table = Table("server", "serves", "step", "behind", "seen", "why")
    for server in view.servers:
        serves = str(server.version) if server.version is not None else "nothing"
        behind = "unknown" if server.behind_s is None else f"{server.behind_s:.0f} s" if server.behind_s else "no"
        seen = "answers now" if server.is_live else f"silent; wrote {server.seen_s_ago:.0f} s ago"
        table.add_row(server.name, serves, str(server.step or "-"), behind, seen, server.reason)
    console.print(table if view.servers else "no server has reported yet: start one with `relay serve`")
    if view.last_deployment is not None:
        run = view.last_deployment
        total_s = sum(value for key, value in run.metrics.items() if key.startswith("seconds/"))
        when = f"{run.ended_at:%Y-%m-%d %H:%M:%S} UTC" if run.ended_at else "just now"
        console.print(f"last deployment: {run.run_name}, {total_s:.1f} s, {when}", highlight=False)


def _server(name: str, heartbeat: str, now: datetime) -> ServerView:
    try:
        told: Mapping[str, object] = json.loads(heartbeat)
        url, seen = str(told["url"]), datetime.fromisoformat(str(told["seen"]))
    except (ValueError, KeyError, TypeError):
        told, url, seen = {}, "", datetime.fromtimestamp(0, UTC)
    live = {} if told.get("stopped") else _ask(url)
    facts = live or told
    return ServerView(
        name=name,
        url=url,
        is_live=bool(live),
        seen_s_ago=(now - seen).total_seconds(),
        version=_whole(live.get("version") if live else told.get("serving")),
        step=_whole(live.get("checkpoint_step") if live else told.get("step")),
        behind_s=_seconds(live.get("behind_s")) if live else None,
        reason="stopped" if told.get("stopped") else str(facts.get("reason") or facts.get("because") or ""),
    )


def _ask(url: str) -> Mapping[str, object]:
    try:
        answer = httpx.get(f"{url}/models/info", timeout=ASK_TIMEOUT_S, trust_env=False)
        document = answer.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
