"""Decisions as runs of the experiment `NAME/decisions`: a run that is RUNNING is an intent, FINISHED is the commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline.promotion import marks
from pipeline.promotion import rule as rules
from pipeline.promotion.rule import Rule
from registry_hooks import contract
from registry_hooks.records import RunRecord

PROMOTE, KEEP, INCONCLUSIVE, ERROR = "promote", "keep", "inconclusive", "error"
MANUAL, ROLLBACK, ADOPT, HOLD, RELEASE = "manual", "rollback", "adopt", "hold", "release"
FREEZE, QUARANTINE, UNQUARANTINE, REJUDGE, FORGET = "freeze", "quarantine", "unquarantine", "rejudge", "forget"
# Kinds after which the alias names another version than before, as far as the ledger knows.
OLD_MOVES = (PROMOTE, MANUAL, ROLLBACK)
MOVES = (*OLD_MOVES, ADOPT)
PROMOTER, PERSON = "promoter", marks.PERSON
PARAM_KIND, PARAM_TARGET, PARAM_PREVIOUS, PARAM_BY = "kind", "target", "previous", "by"
# Which alias an entry is about; of a move, the same again: by that one param the last move is found among thousands.
PARAM_ALIAS, PARAM_MOVES = "alias", "moves"
_NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision, or what a person did.

    Attributes:
        kind: One of the constants of this module.
        alias: The alias that it is about; entries from before that was written down are about the default one.
        target: The version that the alias names afterwards (of moves), or that it is about; None for no version.
        previous: The version that the alias named before.
        by: `promoter`, `a person` (seen from outside), or the user and host of a command.
        rule: By what versions were compared; empty where none were.
        numbers: What was measured, shown as the run's metrics: `NAME`, or `NAME/VERSION`, whose step is the version.
        at: When it was begun.
        ended_at: When it was committed, the alias moved.
        is_open: Whether it is an intent that was not committed. Only moves are announced; all else is written down
            when it is done, and is no intent while the few calls of writing it are on their way.
        is_void: Whether it was an intent that came to nothing.
    """

    kind: str
    because: str
    alias: str = contract.ALIAS_PRODUCTION
    target: int | None = None
    previous: int | None = None
    by: str = PROMOTER
    rule: Rule = rules.NO_RULE
    numbers: Mapping[str, float] = field(default_factory=dict)
    at: datetime | None = None
    ended_at: datetime | None = None
    run_id: str = ""
    is_open: bool = False
    is_void: bool = False

    @property
    def is_move(self) -> bool:
        """Whether it moved the alias, for certain."""
        return self.kind in MOVES and not self.is_open and not self.is_void

    @property
    def is_automatic(self) -> bool:
        return self.by == PROMOTER


def to_run(name: str, entry: Entry) -> RunRecord:
    """The run that tells of `entry`."""
    title = entry.kind if entry.target is None else f"{entry.kind} {entry.target}"
    params = {
        PARAM_KIND: entry.kind,
        PARAM_ALIAS: entry.alias,
        **({PARAM_MOVES: entry.alias} if entry.kind in MOVES else {}),
        PARAM_TARGET: _NONE if entry.target is None else str(entry.target),
        PARAM_PREVIOUS: _NONE if entry.previous is None else str(entry.previous),
        PARAM_BY: entry.by,
        **rules.to_params(entry.rule),
    }
    metrics, series = _split(entry.numbers)
    return RunRecord(
        experiment=contract.decisions_experiment(name),
        run_name=title,
        params=params,
        metrics=metrics,
        series=series,
        tags={contract.TAG_BECAUSE: entry.because},
        started_at=entry.at,
    )


def from_run(record: RunRecord) -> Entry:
    """The entry that a run tells of; what a person wrote there by hand is read as well as it can be."""
    kind = record.params.get(PARAM_KIND, "unknown")
    return Entry(
        kind=kind,
        because=record.tags.get(contract.TAG_BECAUSE, ""),
        alias=record.params.get(PARAM_ALIAS, contract.ALIAS_PRODUCTION),
        target=contract.whole_number(record.params.get(PARAM_TARGET)),
        previous=contract.whole_number(record.params.get(PARAM_PREVIOUS)),
        by=record.params.get(PARAM_BY, PERSON),
        rule=rules.from_params(record.params),
        numbers=record.metrics,
        at=record.started_at,
        ended_at=record.ended_at,
        run_id=record.run_id,
        is_open=record.is_open and kind in MOVES,
        is_void=record.failed,
    )


def moment_after(newest: Entry | None, now: datetime) -> datetime:
    """When an entry is begun that comes after `newest`: by the clock, and later than `newest` in any case.

    The order of entries is the order in which they were written, not that of the clocks of those who wrote them.
    """
    return now if newest is None else max(now, begun(newest) + timedelta(milliseconds=1))


def begun(entry: Entry) -> datetime:
    """When an entry was begun, to sort by."""
    return entry.at or datetime.fromtimestamp(0, UTC)


def _split(numbers: Mapping[str, float]) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Numbers as metrics, and those of versions as one metric each: a name with a number in it would be drawn alone."""
    metrics: dict[str, float] = {}
    series: dict[str, dict[int, float]] = {}
    for key, value in numbers.items():
        name, _, version = key.rpartition("/")
        if name and version.isdecimal():
            series.setdefault(name, {})[int(version)] = value
        else:
            metrics[key] = value
    return metrics, series
