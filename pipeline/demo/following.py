"""Looks on: which checkpoints were saved, which versions came of them, what was decided, and what the server serves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline import trainer_state
from pipeline.demo import gateway_view, narrator
from pipeline.demo.person import Person, Seen
from pipeline.demo.timeline import Passage, Reload
from pipeline.promotion import ledger, reading
from pipeline.promotion.acting import Hands
from pipeline.promotion.ledger import Entry
from registry_hooks.errors import NotACheckpointError, RelayError, UnknownModelError


class Follower:
    """Tells each thing once, as it happens; knows what has come of every version.

    Attributes:
        passages: Of the versions that the promoter brought into service, in that order.
        served: The version that answers now.
        reason: What the server says about that.
    """

    def __init__(self, person: Person, hands: Hands, url: str, checkpoints: Path, say: Callable[[str], None]) -> None:
        self._person, self._hands, self._url = person, hands, url
        self._checkpoints, self._say = checkpoints, say
        self._told: set[str] = set()
        self._versions: dict[int, Seen] = {}
        self._promotions: dict[int, Entry] = {}
        self._reloads: dict[int, Reload] = {}
        self.passages: list[Passage] = []
        self.served: int | None = None
        self.reason = ""

    @property
    def num_judged(self) -> int:
        """Versions with a verdict."""
        return sum(one.is_judged for one in self._versions.values())

    @property
    def is_settled(self) -> bool:
        """Whether the last version that was promoted is in service."""
        newest = max(self._promotions, default=None)
        return newest is not None and self.passages[-1:] != [] and self.passages[-1].version == newest

    def look(self) -> None:
        """Look at everything once."""
        self._look_at_folders()
        try:
            self._versions = self._person.versions()
            entries = reading.entries_of(self._hands, 50)
        except (RelayError, UnknownModelError):
            return
        self._look_at_versions()
        self._look_at_decisions(entries)
        self._look_at_server()

    def _look_at_folders(self) -> None:
        for folder in sorted(self._checkpoints.glob("checkpoint-*")):
            if folder.name in self._told:
                continue
            try:
                metrics = trainer_state.read(folder).metrics
            except NotACheckpointError:  # half-written
                continue
            self._tell(folder.name, f"{folder.name} saved: {narrator.metrics_line(metrics)}")

    def _look_at_versions(self) -> None:
        for number, seen in sorted(self._versions.items()):
            self._tell(f"version {number}", f"published as version {number} (step {seen.step})")
            if seen.is_judged:
                self._tell(f"verdict {number}", f"verdict on version {number}: {seen.reason}")

    def _look_at_decisions(self, entries: list[Entry]) -> None:
        for entry in reversed(entries):
            if entry.kind == ledger.PROMOTE and entry.is_move and entry.target is not None:
                self._promotions[entry.target] = entry

    def _look_at_server(self) -> None:
        state = gateway_view.server_state(self._url)
        if state is None:
            return
        self.served, self.reason = state.version, state.reason
        if state.version is None:
            return
        reload = gateway_view.reload_of(state, state.version)
        if reload is not None:
            self._reloads.setdefault(state.version, reload)
        for number, entry in self._promotions.items():
            known = [one.version for one in self.passages]
            if number in self._reloads and number in self._versions and number not in known and entry.ended_at:
                self._arrived(number, entry.ended_at)

    def _arrived(self, number: int, moved_at: datetime) -> None:
        seen = self._versions[number]
        state_file = self._checkpoints / f"checkpoint-{seen.step}" / trainer_state.STATE_FILE
        passage = Passage(
            version=number,
            step=seen.step,
            saved_at=datetime.fromtimestamp(state_file.stat().st_mtime, UTC),
            published_at=seen.published_at,
            moved_at=moved_at,
            reload=self._reloads[number],
        )
        self.passages.append(passage)
        self._say(
            f"version {number} is served, {passage.saved_to_served_s:.1f} s after it was saved, "
            f"{passage.moved_to_served_s:.1f} s after Production was moved"
        )

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._say(line)
