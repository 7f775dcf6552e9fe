"""What a server should do next: desired (the alias) against actual (the line-up). Pure.

Declining is a value. Nothing here ever unloads: a registry that is down, an alias that was deleted and a version that
was refused all keep the current model in service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry_hooks.errors import (
    EngineStartError,
    NotACheckpointError,
    ObjectMissingError,
    RelayError,
    VerificationError,
)
from registry_hooks.records import ModelVersion
from server.gateway.lineup import identity

Key = tuple[int, str]

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 300.0
LONGEST_POLL_S = 10.0
LONGEST_RESTART_S = 30.0


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
        restart_at: Not to be restarted before that time.
        warm: Identity of a live engine beside it.
        last_good: Whether the cache holds a version from before that this process has not tried yet.
    """

    current: Key | None = None
    alive: bool = True
    restart_at: datetime | None = None
    warm: Key | None = None
    last_good: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a version is not served.

    Attributes:
        retry_at: When to try again; None for never by itself.
        tries: How many times it was tried, from 1.
    """

    because: str
    retry_at: datetime | None
    tries: int = 1


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


def next_action(seen: Sighting, actual: Actual, refusals: Mapping[Key, Refusal], *, now: datetime) -> Action:
    """Say what this server should do next to serve what the alias names.

    Args:
        seen: The last look at the registry.
        actual: The line-up.
        refusals: Versions that were refused here.
        now: Wall clock, UTC.

    Returns:
        One action, with the reason that a person would want to read.
    """
    if actual.current is not None and not actual.alive and (actual.restart_at is None or now >= actual.restart_at):
        return Restart(because="the engine died")
    if seen.version is None:
        if actual.current is None and actual.last_good:
            return BootFromCache(because=f"{seen.trouble}; the cache holds what was served last")
        return Keep(because=seen.trouble)
    return _towards(seen.version, actual, refusals.get(identity(seen.version)), now)


def _towards(version: ModelVersion, actual: Actual, refusal: Refusal | None, now: datetime) -> Action:
    key = identity(version)
    if key == actual.current and not actual.alive:
        return Keep(because=f"the engine of {version.label} died again and again; the next restart waits")
    if key == actual.current:
        return Keep(because=f"serving {version.label}, as the alias says")
    if refusal is not None and (refusal.retry_at is None or now < refusal.retry_at):
        if actual.current is None and actual.last_good:
            return BootFromCache(because=f"{version.label} was refused: {refusal.because}")
        return Keep(because=refusal.because)
    if key == actual.warm:
        return FlipToWarm(version=version, because=f"the alias went back to {version.label}, which is still warm")
    return Load(version=version, because=f"the alias names {version.label}")


def refuse(because: str, earlier: Refusal | None, *, transient: bool, now: datetime) -> Refusal:
    """A refusal after a failed try: a fault of the world is tried again, later each time; a bad version never is."""
    tries = earlier.tries + 1 if earlier else 1
    if not transient:
        return Refusal(because=because, retry_at=None, tries=tries)
    wait_s = min(FIRST_RETRY_S * 2 ** (tries - 1), LONGEST_RETRY_S)
    return Refusal(because=because, retry_at=now + timedelta(seconds=wait_s), tries=tries)


def is_about_the_version(error: RelayError) -> bool:
    """Whether the version itself is at fault, for every server and for good, not this box or the moment."""
    if isinstance(error, EngineStartError):
        return error.stage in ("policy", "load") and not error.transient
    return isinstance(error, VerificationError | NotACheckpointError | ObjectMissingError)


def poll_delay_s(poll_s: float, num_failures: int) -> float:
    """Seconds to the next look: `poll_s`, longer each time that the registry stays silent, never over 10 s more."""
    return min(poll_s * 2.0 ** min(num_failures, 10), max(poll_s, LONGEST_POLL_S))


def restart_delay_s(num_deaths: int) -> float:
    """Seconds before the `num_deaths`-th death in a row is answered by a restart: 0, 1, 2, 4 … 30."""
    return 0.0 if num_deaths <= 1 else min(2.0 ** (num_deaths - 2), LONGEST_RESTART_S)
