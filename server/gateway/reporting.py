"""Tells the registry what this server does: heartbeat, refusals, deployments. Never in the way of serving.

One thread writes. What cannot be written now is tried again, later each time; what others overtake five times is given
up, and so is the oldest of too many.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from registry_hooks import contract, events
from registry_hooks.errors import RelayError
from registry_hooks.ports import ReportSink
from registry_hooks.records import RunRecord
from server.gateway.lineup import Slot
from server.gateway.outbox import ATTEMPTS, HEARTBEAT, RETRIES, Outbox, Report, Write
from server.gateway.reloading import Reload

# So many failures in a row, with nothing written, and the registry is held to be away for this round.
_AWAY_AFTER = 3


class Reporter(threading.Thread):
    """Writes reports into the registry from a thread of its own."""

    def __init__(self, sink: ReportSink, *, heartbeat_s: float) -> None:
        super().__init__(name="reporter", daemon=True)
        self._sink = sink
        self.heartbeat: Callable[[], None] = lambda: None
        self._heartbeat_s = heartbeat_s
        self._beat_at_s = time.monotonic() + heartbeat_s
        self._outbox = Outbox()
        self._num_silent = 0
        self._wake = threading.Event()
        self._ending = threading.Event()

    def post(self, what: str, write: Write) -> None:
        """Have `write` called with the sink, soon; a later post of the same `what` replaces one that still waits."""
        for lost in self._outbox.post(what, write):
            events.logger().warning("report.dropped", what=lost, because="too many reports wait")
        self._wake.set()

    def run(self) -> None:
        while not self._ending.is_set():
            # A registry that is away is left alone for a while, whatever is posted meanwhile.
            (self._ending if self._num_silent else self._wake).wait(self._pause_s())
            self._wake.clear()
            if time.monotonic() >= self._beat_at_s and not self._ending.is_set():
                self._beat()
            self.write_round()
        self.write_round()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Write what waits, once, and end."""
        self._ending.set()
        self._wake.set()
        self.join(timeout_s)

    def write_round(self) -> None:
        """Try once to write each report that is due."""
        failed: list[Report] = []
        num_written = 0
        for report in self._outbox.due(time.monotonic()):
            if self._write(report):
                num_written += 1
            else:
                failed.append(report)
                if not num_written and len(failed) == _AWAY_AFTER:
                    break
        for report in failed:
            if self._outbox.failed(report, others_went=num_written > 0, now_s=time.monotonic()):
                events.logger().error("report.dropped", what=report.what, because=f"it failed {ATTEMPTS} times")
        self._num_silent = self._num_silent + 1 if failed and not num_written else 0

    def _write(self, report: Report) -> bool:
        try:
            report.write(self._sink)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next report must have its turn
            said = str(error) if isinstance(error, RelayError) else repr(error)
            events.logger().warning("report.failed", what=report.what, because=said)
            return False
        self._outbox.written(report)
        return True

    def _beat(self) -> None:
        self._beat_at_s = time.monotonic() + self._heartbeat_s
        try:
            self.heartbeat()
        except Exception as error:  # noqa: BLE001 - the next one may be right
            events.logger().exception("report.failed", what=HEARTBEAT, because=repr(error))

    def _pause_s(self) -> float:
        if self._num_silent:
            return RETRIES.delay_s(self._num_silent)
        next_at_s = self._outbox.next_at_s()
        until_s = self._beat_at_s if next_at_s is None else min(self._beat_at_s, next_at_s)
        return max(0.0, until_s - time.monotonic())


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
