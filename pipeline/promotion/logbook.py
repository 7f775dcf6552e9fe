"""The ledger of one alias: entries written and found again, in the experiment `NAME/decisions`.

What is looked for is asked of the registry by what it says (`params.moves`, RUNNING), one run at a time: a pass costs
the same after twelve thousand decisions as after three. Entries from before they said which alias they are about, and
that they move it, count as those of the default alias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.promotion import ledger
from pipeline.promotion.ledger import Entry
from registry_hooks import contract
from registry_hooks.ports import IntentLog, ReportSink
from registry_hooks.records import RunRecord

# How far back people look for what served well; one of them is enough for everything else.
NUM_MOVES = 200
# Intents that a crash left open at once: one, unless several promoters were killed.
_NUM_OPEN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Logbook:
    """Reads and writes entries about `alias` of the registered model `name`.

    Every reading method raises `DeletedExperimentError` when somebody deleted the experiment: nothing may be concluded
    from a ledger that cannot be read.
    """

    sink: ReportSink
    log: IntentLog
    name: str
    alias: str

    @property
    def experiment(self) -> str:
        """Where the entries are."""
        return contract.decisions_experiment(self.name)

    def last_move(self) -> Entry | None:
        """The last committed move of the alias; None when there never was one."""
        return next(iter(self.moves(1)), None)

    def last_choice(self) -> int | None:
        """The version that the promoter itself promoted last."""
        found = self._of_alias(1, {ledger.PARAM_KIND: ledger.PROMOTE, ledger.PARAM_MOVES: self.alias})
        found = found or self._of_old(1, ledger.PROMOTE)
        return found[0].target if found else None

    def moves(self, limit: int) -> list[Entry]:
        """The newest committed moves of the alias, newest first."""
        found = self._of_alias(limit, {ledger.PARAM_MOVES: self.alias})
        if len(found) < limit:
            old = [entry for kind in ledger.OLD_MOVES for entry in self._of_old(limit - len(found), kind)]
            found += sorted(old, key=ledger.begun, reverse=True)
        return found[:limit]

    def open_intent(self) -> Entry | None:
        """A move that was begun and neither committed nor given up; the oldest when there are several."""
        runs = self.log.find_runs(self.experiment, limit=_NUM_OPEN, params={}, status="RUNNING")
        ours = [entry for entry in map(ledger.from_run, runs) if entry.is_open and entry.alias == self.alias]
        return ours[-1] if ours else None

    def about(self, number: int, limit: int) -> list[Entry]:
        """The newest entries whose target or previous version is `number`, newest first."""
        text = str(number)
        runs = [
            *self.log.find_runs(self.experiment, limit=limit, params={ledger.PARAM_TARGET: text}),
            *self.log.find_runs(self.experiment, limit=limit, params={ledger.PARAM_PREVIOUS: text}),
        ]
        entries = {(run.run_id, run.started_at): ledger.from_run(run) for run in runs}
        return sorted(entries.values(), key=ledger.begun, reverse=True)[:limit]

    def newest(self, limit: int) -> list[Entry]:
        """The newest entries, also those about other aliases, newest first."""
        return [ledger.from_run(run) for run in self.log.find_runs(self.experiment, limit=limit, params={})]

    def write(self, entry: Entry) -> str:
        """Write down what is done already; the run's id."""
        return self.sink.record_run(self._run(entry))

    def open(self, entry: Entry) -> str:
        """Write down what is about to be done; the run's id."""
        return self.log.open_run(self._run(entry))

    def close(self, run_id: str, *, failed: bool, because: str) -> None:
        """Commit an intent, or give it up."""
        self.log.close_run(run_id, failed=failed, because=because)

    def _run(self, entry: Entry) -> RunRecord:
        """The run of an entry. All entries pass here on their way into the registry."""
        newest = self.newest(1)
        at = ledger.moment_after(newest[0] if newest else None, entry.at or datetime.now(UTC))
        return ledger.to_run(self.name, replace(entry, alias=self.alias, at=at))

    def _of_alias(self, limit: int, params: Mapping[str, str | None]) -> list[Entry]:
        runs = self.log.find_runs(self.experiment, limit=limit, params=params, status="FINISHED")
        return [ledger.from_run(run) for run in runs]

    def _of_old(self, limit: int, kind: str) -> list[Entry]:
        if self.alias != contract.ALIAS_PRODUCTION:
            return []
        return self._of_alias(limit, {ledger.PARAM_KIND: kind, ledger.PARAM_ALIAS: None})
