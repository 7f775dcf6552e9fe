"""When a checkpoint passed each milestone between its save and its first answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

MILESTONES = ("saved", "published", "alias moved", "fetched", "verified", "started", "served")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What the server says of the reload that brought a version into service.

    Attributes:
        stage_s: Seconds per stage: `fetch`, `verify`, `start`, and what follows until it serves.
    """

    started_at: datetime
    ended_at: datetime
    stage_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One checkpoint on its way into service; all times UTC."""

    version: int
    step: int
    saved_at: datetime
    published_at: datetime
    moved_at: datetime
    reload: Reload

    @property
    def moments(self) -> tuple[datetime, ...]:
        """When each of `MILESTONES` was passed."""
        stage_s, moment = self.reload.stage_s, self.reload.started_at
        by_server = []
        for stage in ("fetch", "verify", "start"):
            moment += timedelta(seconds=stage_s.get(stage, 0.0))
            by_server.append(moment)
        return (self.saved_at, self.published_at, self.moved_at, *by_server, self.reload.ended_at)

    @property
    def seconds(self) -> tuple[float, ...]:
        """From each milestone to the next: one fewer than there are milestones."""
        return tuple((after - before).total_seconds() for before, after in pairwise(self.moments))

    @property
    def saved_to_served_s(self) -> float:
        return (self.reload.ended_at - self.saved_at).total_seconds()

    @property
    def moved_to_served_s(self) -> float:
        return (self.reload.ended_at - self.moved_at).total_seconds()
