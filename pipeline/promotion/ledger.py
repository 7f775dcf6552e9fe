"""Decisions as runs of the experiment `NAME/decisions`: a run that is RUNNING is an intent, FINISHED is the commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.promotion import rule as rules
from pipeline.promotion.rule import Rule
from registry_hooks import contract
from registry_hooks.records import RunRecord

PROMOTE, KEEP, INCONCLUSIVE, ERROR = "promote", "keep", "inconclusive", "error"
MANUAL, ROLLBACK, HOLD, RELEASE = "manual", "rollback", "hold", "release"
FREEZE, UNFREEZE, QUARANTINE = "freeze", "unfreeze", "quarantine"
# Kinds after which the alias names another version than before.
MOVES = (PROMOTE, MANUAL, ROLLBACK)
PROMOTER, PERSON = "promoter", "a person"
_NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision, or what a person did.

    Attributes:
        kind: One of the constants of this module.
        target: The version that the alias names afterwards (of moves), or that it is about; None for no version.
        previous: The version that the alias named before.
        by: `promoter`, `a person` (seen from outside), or the user and host of a command.
        rule: By what versions were compared; empty where none were.
        numbers: What was measured, shown as the run's metrics.
        at: When it was begun.
        ended_at: When it was committed, the alias moved.
        is_open: Whether it is an intent that was not committed.
        is_void: Whether it was an intent that came to nothing.
    """

    kind: str
    because: str
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
        "kind": entry.kind,
        "target": _NONE if entry.target is None else str(entry.target),
        "previous": _NONE if entry.previous is None else str(entry.previous),
        "by": entry.by,
        **rules.to_params(entry.rule),
    }
    return RunRecord(
        experiment=contract.decisions_experiment(name),
        run_name=title,
        params=params,
        metrics=dict(entry.numbers),
        tags={contract.TAG_BECAUSE: entry.because},
        started_at=entry.at,
    )


def from_run(record: RunRecord) -> Entry:
    """The entry that a run tells of; what a person wrote there by hand is read as well as it can be."""
    return Entry(
        kind=record.params.get("kind", "unknown"),
        because=record.tags.get(contract.TAG_BECAUSE, ""),
        target=_number(record.params.get("target")),
        previous=_number(record.params.get("previous")),
        by=record.params.get("by", PERSON),
        rule=rules.from_params(record.params),
        numbers=record.metrics,
        at=record.started_at,
        ended_at=record.ended_at,
        run_id=record.run_id,
        is_open=record.is_open,
        is_void=record.failed,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
