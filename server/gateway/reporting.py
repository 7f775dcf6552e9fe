"""Tells the registry what this server does: heartbeat, refusals, deployments. Never in the way of serving.

One thread writes; what cannot be written now is tried again, in order, and the oldest of too many is dropped.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from registry_hooks import contract, events
from registry_hooks.backoff import Backoff
from registry_hooks.errors import RelayError
from registry_hooks.ports import ReportSink
from registry_hooks.records import RunRecord
from server.gateway.lineup import Slot
from server.gateway.reloading import Reload

MAX_WAITING = 100
BACKOFF = Backoff(first_s=1.0, longest_s=30.0)


class Reporter(threading.Thread):
    """Writes reports into the registry from a thread of its own."""

    def __init__(self, sink: ReportSink, *, heartbeat_s: float) -> None:
        super().__init__(name="reporter", daemon=True)
        self._sink = sink
        self.heartbeat: Callable[[], None] = lambda: None
        self._heartbeat_s = heartbeat_s
        self._waiting: dict[str, Callable[[ReportSink], object]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False

    def post(self, what: str, write: Callable[[ReportSink], object]) -> None:
        """Have `write` called with the sink, soon; a later post of the same `what` replaces one that still waits."""
        with self._lock:
            self._waiting.pop(what, None)
            self._waiting[what] = write
            while len(self._waiting) > MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
        self._wake.set()

    def run(self) -> None:
        failures = 0
        while True:
            wait_s = BACKOFF.delay_s(failures) if failures else self._heartbeat_s
            woken = self._wake.wait(wait_s)
            self._wake.clear()
            if not woken and not failures:
                self.heartbeat()
            failures = 0 if self._write_all() else failures + 1
            if self._stopping:
                return

    def stop(self, timeout_s: float = 5.0) -> None:
        """Write what waits, once, and end."""
        self._stopping = True
        self._wake.set()
        self.join(timeout_s)

    def _write_all(self) -> bool:
        while (item := self._first()) is not None:
            what, write = item
            try:
                write(self._sink)
            except RelayError as error:
                events.logger().warning("report.failed", what=what, because=str(error), transient=error.transient)
                if error.transient:
                    return False
            with self._lock:
                if self._waiting.get(what) is write:
                    del self._waiting[what]
        return True

    def _first(self) -> tuple[str, Callable[[ReportSink], object]] | None:
        with self._lock:
            return next(iter(self._waiting.items()), None)


def heartbeat_json(*, slot: Slot | None, desired: int | None, because: str, url: str, stopped: bool = False) -> str:
    """The value of `relay.server.<name>`: what the server serves, since when, and when it last said so."""
    version = slot.checkpoint.version if slot else None
    facts = {
        "serving": version.version if version else None,
        "step": version.step if version else None,
        "digest": slot.checkpoint.digest[:12] if slot else None,
        "since": slot.loaded_at.isoformat(timespec="milliseconds") if slot else None,
        "desired": desired,
        "because": because[:500],
        "url": url,
        "seen": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "stopped": stopped,
    }
    return json.dumps(facts)


def deployment_record(reload: Reload, *, server: str, slot: Slot | None) -> RunRecord:
    """The run that tells of one reload."""
    version = reload.version
    tags = {
        key: version.tags[key] for key in (contract.TAG_CONFIG_HASH, contract.TAG_GIT_COMMIT) if key in version.tags
    }
    params = {
        "deployment_id": uuid.uuid4().hex,
        "server": server,
        "version": str(version.version),
        "step": str(version.step),
        "digest": slot.checkpoint.digest if slot else str(version.digest),
        "attested": str(slot.checkpoint.attested if slot else False),
        "outcome": reload.outcome,
        "config_hash": version.tags.get(contract.TAG_CONFIG_HASH, ""),
        "git_commit": version.tags.get(contract.TAG_GIT_COMMIT, ""),
    }
    metrics = {f"seconds/{stage}": seconds for stage, seconds in reload.watch.seconds.items()}
    metrics |= {"bytes": float(reload.size_bytes), "bytes_downloaded": float(reload.downloaded_bytes)}
    if slot is not None:
        metrics["vram_bytes"] = float(slot.engine.ready.vram_bytes)
        metrics["rss_bytes"] = float(slot.engine.ready.rss_bytes)
        if slot.checkpoint.score is not None:
            metrics["score"] = slot.checkpoint.score
    return RunRecord(
        experiment=contract.deployments_experiment(version.name),
        run_name=f"{server}/v{version.version}/{reload.outcome}",
        params=params,
        metrics=metrics,
        tags={**tags, contract.TAG_BECAUSE: (reload.because or reload.verdict)[:500]},
        failed=reload.outcome != "served",
        started_at=reload.started_at,
        ended_at=reload.ended_at,
    )
