"""Why a version waits: one table, for the promoter, for `relay status` and for `relay why`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.promotion.marks import freeze_of, hold_of
from pipeline.promotion.standing import Standing
from pipeline.promotion.trying import Trial, read_trial
from registry_hooks import contract
from registry_hooks.records import ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holds for all that wait.

    Attributes:
        production: The version that the alias names; None when it names none.
        is_removed: Whether somebody deleted the alias.
        trial: What is in the way of comparing with `production`; None when nothing is.
    """

    alias: str
    production: int | None
    hold: str | None = None
    freeze: str | None = None
    is_removed: bool = False
    trial: Trial | None = None


def why(version: ModelVersion, facts: Facts) -> str:
    """Why a version without a verdict has none yet, in one sentence; the strongest reason first."""
    if contract.TAG_STATE not in version.tags:
        return "no promoter has looked at it yet"
    if (because := in_the_way_of_all(facts)) is not None:
        return because
    if facts.trial is not None:
        return facts.trial.sentence
    trial = read_trial(version.tags.get(contract.tries_tag(facts.alias)))
    if trial is not None:
        return f"it could not be scored: {trial.sentence}"
    if facts.production is None:
        return f"it is to be compared with the others that wait: {facts.alias} names nothing"
    return f"it is to be compared with version {facts.production}"


def in_the_way_of_all(facts: Facts) -> str | None:
    """Why nothing may be promoted, whatever waits; None when it may."""
    if facts.hold is not None:
        return f"held: {facts.hold}"
    if facts.is_removed:
        return removed(facts.alias)
    return None if facts.freeze is None else f"frozen: {facts.freeze}"


def removed(alias: str) -> str:
    """That the alias was deleted, and what to do about it."""
    return f"{alias} was deleted by hand and stays so: `relay promote N` says which version it is to name"


def facts_of(standing: Standing) -> Facts:
    """The facts of a standing. What is to be tried again now is in nobody's way."""
    return Facts(
        alias=standing.alias,
        production=standing.production,
        hold=standing.hold,
        freeze=standing.freeze,
        is_removed=standing.is_removed,
        trial=judging_trial(standing),
    )


def facts_for_people(
    tags: Mapping[str, str], aliases: Mapping[str, int], alias: str, *, is_removed: bool, now: datetime
) -> Facts:
    """The facts for who does not know by what the promoter compares.

    Args:
        tags: Of the registered model.
        aliases: Of the registered model.
        is_removed: Whether the last move on record is that somebody deleted the alias.
    """
    hold, freeze = hold_of(tags, alias), freeze_of(tags, alias)
    trial = read_trial(tags.get(contract.tries_tag(alias)))
    production = aliases.get(alias)
    is_in_the_way = trial is not None and trial.about == (production or 0) and trial.next_at > now
    return Facts(
        alias=alias,
        production=production,
        hold=hold.sentence if hold else None,
        freeze=freeze.sentence if freeze else None,
        is_removed=is_removed and production is None,
        trial=trial if is_in_the_way else None,
    )


def judging_trial(standing: Standing) -> Trial | None:
    """What is in the way of comparing with the incumbent until another try; None when it is to be tried now."""
    trial = standing.trial
    is_about_this = trial is not None and trial.about == (standing.production or 0)
    return trial if is_about_this and not standing.is_due(trial) else None


def is_given_up(standing: Standing) -> bool:
    """Whether the incumbent could not be scored as often as it is ever tried: then it is no bar for those that can."""
    trial = standing.trial
    if trial is None or trial.about != standing.production or trial.rule != standing.terms.rule:
        return False
    return trial.is_spent


def why_no_bar(standing: Standing) -> str:
    """Why nothing holds the alias that others have to be better than."""
    alias, incumbent = standing.alias, standing.incumbent
    if standing.production is None:
        named = standing.last_move.target if standing.last_move is not None else None
        return f"{alias} named nothing" if named is None else f"version {named}, which {alias} named, was deleted"
    if incumbent is None:
        return f"version {standing.production}, which {alias} names, is not there"
    if standing.is_barred(incumbent):
        return f"version {incumbent.version}, which {alias} names, is quarantined"
    server, text = next(iter(standing.refused(incumbent).items()))
    return f"server {server} refused version {incumbent.version}, which {alias} names: {text}"


def count(number: int) -> str:
    """How many wait, in words."""
    return "1 version waits" if number == 1 else f"{number} versions wait"
