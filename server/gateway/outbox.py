"""Reports that wait to be written: each is tried by itself, so that one which cannot be written silences no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from registry_hooks.backoff import Backoff
from registry_hooks.ports import ReportSink

HEARTBEAT = "heartbeat"
MAX_WAITING = 100
ATTEMPTS = 5
RETRIES = Backoff(first_s=1.0, longest_s=30.0)

Write = Callable[[ReportSink], object]


@dataclass(slots=True, kw_only=True, eq=False)
class Report:
    """Something to write.

    Attributes:
        num_failures: How often it could not be written although others could.
        due_at_s: Not to be tried before, on the monotonic clock.
    """

    what: str
    write: Write
    num_failures: int = 0
    due_at_s: float = 0.0


class Outbox:
    """At most `MAX_WAITING` reports; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Report] = {}

    def post(self, what: str, write: Write) -> tuple[str, ...]:
        """Take a report in place of an earlier one of the same name; the names of those that had to go for it."""
        with self._lock:
            self._waiting.pop(what, None)
            self._waiting[what] = Report(what=what, write=write)
            num_too_many = max(0, len(self._waiting) - MAX_WAITING)
            oldest = tuple(name for name in self._waiting if name != HEARTBEAT)[:num_too_many]
            for name in oldest:
                del self._waiting[name]
            return oldest

    def due(self, now_s: float) -> list[Report]:
        """What may be tried now: the heartbeat first, then those that waited for longest."""
        with self._lock:
            due = [report for report in self._waiting.values() if report.due_at_s <= now_s]
        return sorted(due, key=lambda report: report.what != HEARTBEAT)

    def next_at_s(self) -> float | None:
        """When the next one is due; None when nothing waits."""
        with self._lock:
            return min((report.due_at_s for report in self._waiting.values()), default=None)

    def written(self, report: Report) -> None:
        """It is in the registry; a newer one of its name still waits."""
        with self._lock:
            if self._waiting.get(report.what) is report:
                del self._waiting[report.what]

    def failed(self, report: Report, *, others_went: bool, now_s: float) -> bool:
        """Put it off, behind those that wait; whether it was given up.

        Args:
            others_went: Whether the registry took something else in the same round. Only then is it the report that
                cannot be written; a registry that is away loses none.
        """
        report.num_failures += others_went
        report.due_at_s = now_s + RETRIES.delay_s(max(report.num_failures, 1))
        is_hopeless = report.num_failures >= ATTEMPTS and report.what != HEARTBEAT
        with self._lock:
            if self._waiting.get(report.what) is report:
                del self._waiting[report.what]
                if not is_hopeless:
                    self._waiting[report.what] = report
        return is_hopeless
