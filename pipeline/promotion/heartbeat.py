"""What a promoter says of itself in the registry: that it lives, what it does or why it rests, and since when. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

HEARTBEAT_S = 30.0
# Beyond this a heartbeat says that its promoter does not live any more.
OLD_S = 3 * HEARTBEAT_S
WORKS, RESTS, CANNOT, STOPPED = "works", "rests", "cannot", "stopped"
# The tag holds 5,000 characters.
_MAX_ALERTS, _MAX_CHARS = 5, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One promoter.

    Attributes:
        who: User and host.
        seen: When it last wrote; None when it did not say so.
        state: `works` (in a pass), `rests`, `cannot` (the last pass failed), `stopped` (on purpose); or empty.
        since: Since when it is in that state.
        because: Why.
        alerts: What a person should look at.
    """

    who: str
    pid: int
    seen: datetime | None
    state: str = ""
    since: datetime | None = None
    because: str = ""
    alerts: Sequence[str] = ()

    def is_old(self, now: datetime) -> bool:
        """Whether it has not written for longer than a living promoter would."""
        return self.seen is None or (now - self.seen).total_seconds() > OLD_S


def write(beat: Heartbeat) -> str:
    """The value of the tag."""
    document = {
        "who": beat.who,
        "pid": beat.pid,
        "seen": _text(beat.seen),
        "state": beat.state,
        "since": _text(beat.since),
        "because": beat.because[:_MAX_CHARS],
        "alerts": [alert[:_MAX_CHARS] for alert in beat.alerts[:_MAX_ALERTS]],
    }
    return json.dumps(document)


def read(text: str | None) -> Heartbeat | None:
    """What the tag says; None without one, or when somebody wrote something else there."""
    try:
        told = json.loads(text or "")
        return Heartbeat(
            who=str(told["who"]),
            pid=int(told["pid"]),
            seen=_moment(told["seen"]),
            state=str(told.get("state", "")),
            since=_moment(told.get("since")),
            because=str(told.get("because", "")),
            alerts=tuple(map(str, told.get("alerts", ()))),
        )
    except (ValueError, KeyError, TypeError):
        return None


def other_promoter(text: str | None, *, who: str, pid: int, now: datetime) -> str | None:
    """Who else promotes this model, by the heartbeat in the registry; None when nobody does."""
    beat = read(text)
    if beat is None or (beat.who, beat.pid) == (who, pid) or beat.state == STOPPED or beat.is_old(now):
        return None
    return f"{beat.who}, process {beat.pid}"


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment is not None else None


def _moment(text: str | None) -> datetime | None:
    moment = datetime.fromisoformat(text) if text else None
    return moment if moment is not None and moment.tzinfo is not None else None
