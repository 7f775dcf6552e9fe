"""Whose word against a version counts. Pure.

A server's refusal says what that server met. While another one serves the same files it is the server that is odd, and
a server that is gone has no say. What a server declines for reasons of its own is shown, and never counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from registry_hooks import contract
from registry_hooks.records import ModelVersion

# A server that has been silent for longer is gone; one that its new version killed may be silent for a while.
GONE_AFTER_S = 24 * 3600.0
_DIGEST_CHARS = 12  # as much of it as heartbeats tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a server last wrote about itself.

    Attributes:
        serving: Number of the version; None for none.
        digest: The first characters of its digest; empty for unknown.
        silence_s: Seconds since it wrote; None for one that stopped, or wrote nonsense.
    """

    name: str
    serving: int | None
    digest: str
    silence_s: float | None


def servers(heartbeats: Mapping[str, str], *, now: datetime) -> list[Server]:
    """All servers that wrote into the registry, by their heartbeats."""
    return [_server(name, heartbeat, now) for name, heartbeat in heartbeats.items()]


def _server(name: str, heartbeat: str, now: datetime) -> Server:
    try:
        told = json.loads(heartbeat)
        seen = datetime.fromisoformat(told["seen"])
        silence_s = (now - (seen if seen.tzinfo else seen.replace(tzinfo=UTC))).total_seconds()
        serving = told.get("serving")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Server(name=name, serving=None, digest="", silence_s=None)
    return Server(
        name=name,
        serving=serving if isinstance(serving, int) else None,
        digest=str(told.get("digest") or ""),
        silence_s=None if told.get("stopped") else silence_s,
    )


def refusals(version: ModelVersion) -> dict[str, str]:
    """Which servers refused it, and why; also those whose word does not count."""
    return _told(version, contract.TAG_REFUSED_PREFIX)


def declined(version: ModelVersion) -> dict[str, str]:
    """Which servers do not serve it for reasons of their own, and why."""
    return _told(version, contract.TAG_DECLINED_PREFIX)


def counted(version: ModelVersion, known: Sequence[Server], *, silent_after_s: float) -> dict[str, str]:
    """The refusals that count against a version, by server; empty while a live server serves its files.

    Args:
        silent_after_s: How old the heartbeat of a live server may be.
    """
    found = refusals(version)
    gone = {one.name for one in known if one.silence_s is None or one.silence_s > GONE_AFTER_S}
    found = {server: why for server, why in found.items() if server not in gone}
    return {} if found and serving(version, known, silent_after_s=silent_after_s) else found


def serving(version: ModelVersion, known: Sequence[Server], *, silent_after_s: float) -> list[str]:
    """The live servers that serve a version's files."""
    alive = [one for one in known if one.silence_s is not None and one.silence_s <= silent_after_s]
    return [one.name for one in alive if _serves(one, version)]


def _serves(server: Server, version: ModelVersion) -> bool:
    if server.serving is None:
        return False
    known = bool(server.digest and version.digest)
    return (
        version.digest[:_DIGEST_CHARS] == server.digest
        if known and version.digest
        else (server.serving == version.version)
    )


def _told(version: ModelVersion, prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): text for key, text in version.tags.items() if key.startswith(prefix)}
