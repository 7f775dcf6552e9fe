"""What the control loop has seen and done: kept for `/models/info`, logged, and reported to the registry."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from registry_hooks import contract, events
from registry_hooks.errors import RelayError
from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings
from server.gateway.lineup import LineUp, Slot, identity
from server.gateway.reloading import Reload
from server.gateway.reporting import Reporter, deployment_record, heartbeat_json
from server.gateway.watching import Key, Sighting

MAX_TRACE_CHARS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatus:
    """What the control loop knows, replaced whole at each change.

    Attributes:
        because: Why the desired version is served, or why it is not.
        loading: The version that is being brought up now.
        behind_since: Since when the alias has named something that is not served.
        not_served: The version that was last found not to be servable, and whether it was `refused`, `declined` or
            `failed`.
    """

    desired: ModelVersion | None = None
    because: str = "the registry was not asked yet"
    registry_answers: bool = False
    last_look_at: datetime | None = None
    loading: int | None = None
    behind_since: datetime | None = None
    last_reload: Reload | None = None
    not_served: tuple[Key, str] | None = None


class Journal:
    """Written by the control loop, and by those who look at the registry for it while it fetches; read by anybody."""

    def __init__(self, settings: Settings, lineup: LineUp, reporter: Reporter, url: str) -> None:
        self._settings = settings
        self._lineup = lineup
        self._reporter = reporter
        self._url = url
        self._trouble = ""
        self._changing = threading.Lock()
        self.status = WatchStatus(because=f"MLflow at {settings.tracking_uri} was asked and has not answered yet")
        self.on_reload: Callable[[Reload], None] = lambda reload: None

    def saw(self, seen: Sighting) -> None:
        """A look at the registry; one log line per change of its health."""
        self._change(
            desired=seen.version,
            registry_answers=seen.answered,
            last_look_at=datetime.now(UTC),
            behind_since=self._behind_since(seen.version),
        )
        if seen.trouble != self._trouble:
            if seen.trouble:
                events.logger().warning("alias.lost", because=seen.trouble)
            else:
                events.logger().info("alias.found", version=seen.version.version if seen.version else None)
        self._trouble = seen.trouble

    def note(self, because: str) -> None:
        """Why things are as they are."""
        self._change(because=because)

    def begin(self, reload: Reload, because: str) -> None:
        """A version is being brought up."""
        self.goes_on(reload, because)
        events.logger().info("reload.started", version=reload.version.version, because=because)
        self.beat()

    def goes_on(self, reload: Reload, because: str) -> None:
        """A version is still being brought up, whatever else was done meanwhile."""
        self._change(loading=reload.version.version, because=because)

    def end(self, reload: Reload, outcome: str, because: str, slot: Slot | None = None) -> None:
        """It is in service, or it is not; the registry gets a deployment record."""
        reload.outcome, reload.because, reload.ended_at = outcome, because, datetime.now(UTC)
        log = events.logger().info if outcome == "served" else events.logger().warning
        seconds = {stage: round(value, 3) for stage, value in reload.watch.seconds.items()}
        log(f"reload.{outcome}", version=reload.version.version, because=because, seconds=seconds)
        self._change(
            last_reload=reload,
            loading=None,
            because=because,
            behind_since=self._behind_since(self.status.desired),
        )
        if outcome in ("refused", "declined", "failed"):
            self._change(not_served=(identity(reload.version), outcome))
        self.on_reload(reload)
        if outcome != "superseded" and (outcome != "failed" or _is_recorded(reload.tries)):
            record = deployment_record(reload, server=self._settings.serve.server_name, slot=slot)
            self._reporter.post(f"deployment {reload.started_at.isoformat()}", lambda sink: sink.record_run(record))
        self._tell_of(reload.version, outcome, because)
        self.beat()

    def beat(self, *, stopped: bool = False) -> None:
        """Post a heartbeat; only the newest one waits."""
        name, desired = self._settings.registry.name, self.status.desired
        value = heartbeat_json(
            slot=self._lineup.current,
            desired=desired.version if desired else None,
            because=self.status.because,
            url=self._url,
            stopped=stopped,
        )
        tag = contract.server_tag(self._settings.serve.server_name)
        self._reporter.post("heartbeat", lambda sink: sink.set_model_tag(name, tag, value))

    def _change(self, **fields: Any) -> None:
        with self._changing:
            self.status = replace(self.status, **fields)

    def _tell_of(self, version: ModelVersion, outcome: str, because: str) -> None:
        """Say at the version why it is not served here; take back what no longer holds, once it is known."""
        if outcome not in ("refused", "declined", "served"):
            return
        server = self._settings.serve.server_name
        words = {contract.refused_tag(server): "refused", contract.declined_tag(server): "declined"}
        for tag, word in words.items():
            value = because if outcome == word else None
            if value is not None or tag in version.tags:
                self._set_tag(version, tag, value)

    def _set_tag(self, version: ModelVersion, tag: str, value: str | None) -> None:
        self._reporter.post(
            f"{tag} {version.label}", lambda sink: sink.set_version_tag(version.name, version.version, tag, value)
        )

    def _behind_since(self, desired: ModelVersion | None) -> datetime | None:
        current = self._lineup.current
        if desired is None or (current is not None and current.checkpoint.key == identity(desired)):
            return None
        return self.status.behind_since or datetime.now(UTC)


def _is_recorded(tries: int) -> bool:
    """Whether the `tries`-th failure in a row gets a run: 1, 2, 4, 8 …; a week of them is a dozen, not 2,000."""
    return tries & (tries - 1) == 0


def said(error: Exception) -> str:
    """An error for people; one that nobody foresaw goes into the log with its place."""
    if isinstance(error, RelayError):
        return str(error)
    trace = "".join(traceback.format_exception(error))[-MAX_TRACE_CHARS:]
    events.logger().error("error.unforeseen", because=repr(error), trace=trace)
    return repr(error)
