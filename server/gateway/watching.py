"""What a server should do next: desired (the alias) against actual (the line-up). Pure.

Declining is a value. Nothing here ever unloads: a registry that is down, an alias that was deleted and a version that
was refused all keep the current model in service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry_hooks.backoff import Backoff
from registry_hooks.records import ModelVersion
from server.gateway.blaming import Refusal
from server.gateway.lineup import identity

Key = tuple[int, str]

LONGEST_POLL_S = 10.0
RESTARTS = Backoff(first_s=1.0, longest_s=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one look at the registry showed.

    Attributes:
        version: What the alias names; None when it names nothing or the registry did not answer.
        answered: Whether the registry answered at all.
        trouble: Why `version` is None.
    """

    version: ModelVersion | None
    answered: bool = True
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What this server has.

    Attributes:
        current: Identity of the version that answers; None before the first load.
        alive: Whether its engine lives.
        restart_at_s: Not to be restarted before that time, on the monotonic clock.
        warm: Identity of a live engine beside it.
        last_good: Whether the cache holds a version from before that may be tried now.
    """

    current: Key | None = None
    alive: bool = True
    restart_at_s: float | None = None
    warm: Key | None = None
    last_good: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Do nothing."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Fetch, verify and start a version beside what answers now, then flip."""

    version: ModelVersion
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipToWarm:
    """The version is alive already: flip back to it."""

    version: ModelVersion
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The engine that answered has died: start its checkpoint again."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFromCache:
    """Serve what this box served last, until the registry says something."""

    because: str


Action = Keep | Load | FlipToWarm | Restart | BootFromCache


def next_action(seen: Sighting, actual: Actual, refusals: Mapping[Key, Refusal], *, now_s: float) -> Action:
    """Say what this server should do next to serve what the alias names.

    Args:
        seen: The last look at the registry.
        actual: The line-up.
        refusals: Versions that were refused here.
        now_s: On the monotonic clock: a wall clock that is set back must not stop restarts and tries.

    Returns:
        One action, with the reason that a person would want to read.
    """
    is_due = actual.restart_at_s is None or now_s >= actual.restart_at_s
    if actual.current is not None and not actual.alive and is_due:
        return Restart(because="the engine died")
    if seen.version is None:
        if actual.current is None and actual.last_good:
            return BootFromCache(because=f"{seen.trouble}; the cache holds what was served last")
        return Keep(because=seen.trouble)
    return _towards(seen.version, actual, refusals.get(identity(seen.version)), now_s)


def _towards(version: ModelVersion, actual: Actual, refusal: Refusal | None, now_s: float) -> Action:
    key = identity(version)
    if key == actual.current and not actual.alive:
        return Keep(because=f"the engine of {version.label} died again and again; the next restart waits")
    if key == actual.current:
        return Keep(because=f"serving {version.label}, as the alias says")
    if refusal is not None and refusal.holds(now_s):
        if actual.current is None and actual.last_good:
            return BootFromCache(because=refusal.because)
        return Keep(because=refusal.because)
    if key == actual.warm:
        return FlipToWarm(version=version, because=f"the alias went back to {version.label}, which is still warm")
    because = f"the alias names {version.label}"
    if refusal is not None:
        because += f"; try {refusal.tries + 1}, the last one failed: {refusal.because}"
    return Load(version=version, because=because)


def poll_delay_s(poll_s: float, num_failures: int) -> float:
    """Seconds to the next look: `poll_s`, longer each time that the registry stays silent, never over 10 s more."""
    return Backoff(first_s=poll_s, longest_s=max(poll_s, LONGEST_POLL_S)).delay_s(num_failures + 1)


def restart_delay_s(num_deaths: int) -> float:
    """Seconds before the `num_deaths`-th death in a row is answered by a restart: 0, 1, 2, 4 … 30."""
    return RESTARTS.delay_s(num_deaths - 1)
