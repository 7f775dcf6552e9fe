"""What `relay status` says of the promoter, from what it last wrote into the registry. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.promotion import heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoterView:
    """The promoter of a registered model.

    Attributes:
        state: `works`, `rests`, `cannot`, `stopped`, `silent` (it has not written for longer than one that lives), or
            `unknown` (nobody ever wrote).
        who: User, host and process.
        since: Since when it is in the state that it last wrote.
        because: Why it rests or cannot go on, as it last wrote.
        alerts: What a person should look at, as it last wrote.
    """

    state: str
    who: str
    seen_s_ago: float | None
    since: datetime | None
    because: str
    alerts: list[str]

    @property
    def lives(self) -> bool:
        """Whether one passes over the registry."""
        return self.state in (heartbeat.WORKS, heartbeat.RESTS, heartbeat.CANNOT)

    @property
    def sentence(self) -> str:
        """For people."""
        if self.state == "unknown":
            return "promoter: none has written into the registry yet; start one with `relay promoter` or `relay up`"
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        why = f": {self.because}" if self.because else ""
        if self.state == "silent":
            ago = f" for {self.seen_s_ago:.0f} s" if self.seen_s_ago is not None else ""
            return f"promoter: SILENT{ago} ({self.who}); the last that it wrote{why or ' has no reason'}"
        words = {"works": "in a pass", "rests": "rests", "cannot": "cannot go on", "stopped": "was stopped"}
        return f"promoter: {words.get(self.state, 'lives')}{since}{why} ({self.who})"


def promoter_view(tag: str | None, *, now: datetime) -> PromoterView:
    """The promoter, by the tag in which it writes that it lives."""
    beat = heartbeat.read(tag)
    if beat is None:
        return PromoterView(state="unknown", who="", seen_s_ago=None, since=None, because="", alerts=[])
    is_silent = beat.state != heartbeat.STOPPED and beat.is_old(now)
    return PromoterView(
        state="silent" if is_silent else beat.state or heartbeat.RESTS,
        who=f"{beat.who}, process {beat.pid}",
        seen_s_ago=(now - beat.seen).total_seconds() if beat.seen else None,
        since=beat.since,
        because=beat.because,
        alerts=list(beat.alerts),
    )
