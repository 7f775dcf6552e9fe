"""The next thing to do, from what the registry says. Pure: the same standing always gives the same step.

Strongest first: an intent that was left open, a person's move, a server's refusal, a hold, a freeze, the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.promotion import waiting
from pipeline.promotion.ledger import begun
from pipeline.promotion.standing import Standing, is_judged
from pipeline.promotion.trained import is_not_finite
from registry_hooks import contract
from registry_hooks.records import ModelVersion

# An intent of a person's command that is younger may be one of a command that still runs: it takes seconds.
_MAY_LIVE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """An intent was left open by a crash: `adopt` it when the alias names its target, else it is void."""

    run_id: str
    target: int | None
    adopt: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteMove:
    """The alias is not where the ledger says: write that down; `holds` says whether automation stops until released.

    Attributes:
        adopts: Whether the ledger was lost, which tells of no person: the alias is taken as it is, and nothing held.
    """

    target: int | None
    previous: int | None
    holds: bool
    because: str
    adopts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a version may compete: `state` is `admitted`, `rejected` or `quarantined`."""

    version: ModelVersion
    state: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """New versions were seen, or one that waits was refused by a server."""

    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """What the alias names has no verdict, since a crash came before it or a quarantine was lifted: its move is one."""

    target: int
    run_id: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBack:
    """Servers refused what the alias names, which is quarantined, or it was deleted: point the alias at `target`.

    Attributes:
        version: What was refused; None where it was deleted.
        target: None where there is nowhere to go.
    """

    version: ModelVersion | None
    target: int | None
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteBest:
    """Nothing holds the alias that others have to be better than: promote the best of those that wait."""

    candidates: Sequence[ModelVersion]
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Compare the candidates with the incumbent; `gives_up` says that it was tried as often as it ever has to be."""

    incumbent: ModelVersion
    candidates: Sequence[ModelVersion]
    gives_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Nothing to do."""

    because: str


Step = Settle | NoteMove | Admission | Acknowledge | GoBack | PromoteBest | Judge | Rest


def next_step(standing: Standing) -> Step:
    """Say what the promoter should do next.

    Never moves the alias away from where a person put it, and never to a quarantined digest.
    """
    step = _settle(standing) or _note_move(standing) or _admission(standing) or _acknowledge(standing)
    if step is not None:
        return step
    if standing.hold is not None:
        return Rest(because=f"held: {standing.hold}")
    return _go_back(standing) or _compete(standing)


def _settle(standing: Standing) -> Settle | Rest | None:
    intent = standing.intent
    if intent is None:
        return None
    # Passes exclude each other, so that one of the promoter's own is always left over.
    if not intent.is_automatic and abs(standing.terms.now - begun(intent)) < _MAY_LIVE:
        return Rest(because=f"{intent.by} is just moving {standing.alias} to version {intent.target}")
    adopt = standing.production == intent.target
    said = "adopted: the alias names" if adopt else "void: the alias does not name"
    return Settle(
        run_id=intent.run_id,
        target=intent.target,
        adopt=adopt,
        because=f"{intent.because} (interrupted, and {said} version {intent.target})",
    )


def _note_move(standing: Standing) -> NoteMove | None:
    ours = standing.last_move.target if standing.last_move else None
    now = standing.production
    if now == ours or standing.is_lost:
        return None
    if now is None:
        because = f"the alias {standing.alias} was removed outside of Relay; it named version {ours}"
        return NoteMove(target=None, previous=ours, holds=True, because=because)
    if standing.has_lost_its_ledger:
        because = (
            f"{standing.alias} names version {now}, which was judged before, and no decision of {standing.name} is on "
            "record (the experiment was removed, or the model renamed): taken as it is"
        )
        return NoteMove(target=now, previous=None, holds=False, because=because, adopts=True)
    was = "nothing" if ours is None else f"version {ours}"
    because = f"{standing.alias} was moved outside of Relay, from {was} to version {now}"
    # Back to what the promoter itself had chosen, and has not left since as it may not serve: the two agree again.
    # What a person holds, a person releases.
    agrees = now == standing.last_choice and standing.hold_was_noted and standing.has_a_bar
    return NoteMove(target=now, previous=ours, holds=not agrees, because=because)


def _admission(standing: Standing) -> Admission | None:
    verdicts = [_verdict(standing, version) for version in standing.unjudged]
    news = [v for v in verdicts if v.state != v.version.tags.get(contract.TAG_STATE)]
    return Admission(verdicts=news) if news else None


def _verdict(standing: Standing, version: ModelVersion) -> Verdict:
    """Whether a version may compete; asked again while it waits, since a server may refuse it meanwhile."""
    digest, rejected, quarantined = version.digest, contract.STATE_REJECTED, contract.STATE_QUARANTINED
    if digest is not None and digest in standing.quarantined:
        because = f"it has the same files as version {standing.quarantined[digest]}, which is quarantined"
        return Verdict(version=version, state=quarantined, because=because)
    if refused := standing.refused(version):
        server, why = next(iter(refused.items()))
        return Verdict(version=version, state=quarantined, because=f"server {server} refused it: {why}")
    if version.status != "READY":
        return Verdict(version=version, state=rejected, because=f"the registry says {version.status} of it")
    if digest is None:
        because = "it was not published by Relay, so there is no manifest to check its files against"
        return Verdict(version=version, state=rejected, because=because)
    if standing.terms.metric and is_not_finite(version, standing.terms.metric):
        because = f"the metric that decides is not finite: {version.tags[contract.TAG_NONFINITE]}"
        return Verdict(version=version, state=rejected, because=because)
    if version.version in standing.twins:
        because = f"it has the same files as version {standing.twins[version.version]}, which is judged for both"
        return Verdict(version=version, state=rejected, because=because)
    because = "published whole; it waits to be compared"
    return Verdict(version=version, state=contract.STATE_ADMITTED, because=because)


def _acknowledge(standing: Standing) -> Acknowledge | None:
    incumbent, move = standing.incumbent, standing.last_move
    if incumbent is None or move is None or move.target != incumbent.version or is_judged(incumbent, standing.alias):
        return None
    return Acknowledge(target=incumbent.version, run_id=move.run_id, because=move.because)


def _go_back(standing: Standing) -> GoBack | None:
    """What a refusal of the incumbent, or its deletion, asks for; a version that a person chose is left where it is."""
    incumbent, move = standing.incumbent, standing.last_move
    target = next((version.version for version in standing.way_back), None)
    if move is None:
        return None
    if standing.is_lost:
        because = f"version {move.target}, which {standing.alias} named, was deleted"
        return GoBack(version=None, target=target, because=because) if target is not None else None
    if incumbent is None or not move.is_automatic or not (refused := standing.refused(incumbent)):
        return None
    server, why = next(iter(refused.items()))
    because = f"server {server} refused version {incumbent.version}: {why}"
    if target is not None:
        return GoBack(version=incumbent, target=target, because=because)
    if standing.is_barred(incumbent):
        return None  # written down already, and there is nothing to go back to
    return GoBack(version=incumbent, target=None, because=f"{because}; there is no earlier version to go back to")


def _compete(standing: Standing) -> Step:
    """What those that wait ask for. Why they have to wait is said by one table, here as in `relay why`."""
    rivals = standing.rivals
    if not rivals:
        return Rest(because="nothing new")
    facts, wait = waiting.facts_of(standing), waiting.count(len(rivals))
    if (because := waiting.in_the_way_of_all(facts)) is not None:
        return Rest(because=f"{because}; {wait}")
    if standing.incumbent is None or not standing.has_a_bar:
        untried = [version for version in rivals if standing.trial_of(version) is None]
        return PromoteBest(candidates=untried or rivals, because=waiting.why_no_bar(standing))
    due = [version for version in rivals if standing.is_due(standing.trial_of(version))]
    if facts.trial is not None or not due:
        return Rest(because=f"version {rivals[0].version}: {waiting.why(rivals[0], facts)}; {wait}")
    return Judge(incumbent=standing.incumbent, candidates=due, gives_up=waiting.is_given_up(standing))
