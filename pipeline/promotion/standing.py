"""What the registry says about a model at one moment: all that the promoter knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.promotion import ledger
from pipeline.promotion.ledger import Entry
from pipeline.promotion.logbook import Logbook
from pipeline.promotion.marks import freeze_of, hold_of
from pipeline.promotion.rule import Rule
from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.ports import IntentLog, ModelOverview, ReportSink, VersionBook, VersionSource
from registry_hooks.records import ModelVersion

# Among how many of the newest decisions the rule of the last automatic one is looked for.
_NUM_ENTRIES = 100


class Registry(VersionSource, ReportSink, ModelOverview, Protocol):
    """What the promoter reads, and reports to, as servers do."""


class Book(VersionBook, IntentLog, Protocol):
    """What only the promoter needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The registry at one moment.

    Attributes:
        production: The version that the alias names; None when it names none.
        incumbent: That version; None also when it was deleted.
        intent: A decision that was begun and not committed; None when there is none.
        last_move: The last committed move of the alias.
        last_choice: The version that the promoter itself promoted last.
        hold, freeze: Why no automatic move, or no automatic promotion, may happen; None when it may.
        hold_was_noted: Whether the promoter itself set the hold, since somebody had moved the alias.
        unjudged: Versions that no decision has looked at yet, lowest number first.
        twins: For new versions with the same files as an earlier one, that one.
        quarantined: Digests that must not come back by themselves, with the version that they were seen in.
        barred: The versions of those digests.
        judged_through: No version up to this number is unjudged.
        newest: The highest number of a version.
        heartbeats: What each server last wrote about itself, as JSON, by name.
    """

    name: str
    alias: str
    aliases: Mapping[str, int]
    incumbent: ModelVersion | None
    intent: Entry | None
    last_move: Entry | None
    last_choice: int | None
    hold: str | None
    hold_was_noted: bool
    freeze: str | None
    unjudged: Sequence[ModelVersion]
    twins: Mapping[int, int]
    quarantined: Mapping[str, int]
    barred: frozenset[int]
    judged_through: int
    newest: int
    heartbeats: Mapping[str, str]

    @property
    def production(self) -> int | None:
        return self.aliases.get(self.alias)

    @property
    def look_alikes(self) -> list[str]:
        """Aliases that somebody may have set in place of the right one."""
        return contract.look_alikes(self.aliases, self.alias)


def read(registry: Registry, book: Book, name: str, alias: str, *, thorough: bool = False) -> Standing:
    """Read it.

    Args:
        thorough: Whether the quarantined versions are wanted also when nothing new could be one of them; in a large
            registry they are dear to find.

    Raises:
        UnknownModelError: There is no such registered model.
        RegistryUnavailableError: The registry does not answer.
    """
    tags = registry.model_tags(name)
    aliases = registry.aliases(name)
    hold, freeze = hold_of(tags, alias), freeze_of(tags, alias)
    logbook = Logbook(sink=registry, log=book, name=name, alias=alias)
    through = tags.get(contract.TAG_JUDGED_THROUGH, "")
    judged_through = int(through) if through.isdecimal() else 0
    versions = book.versions_after(name, judged_through)
    unjudged = [version for version in versions if not is_judged(version)]
    incumbent = _version(registry, name, aliases.get(alias))
    is_asked = thorough or unjudged or (incumbent is not None and refusals(incumbent))
    state = (contract.TAG_STATE, contract.STATE_QUARANTINED)
    quarantined = book.versions_tagged(name, *state) if is_asked else ()
    return Standing(
        name=name,
        alias=alias,
        aliases=aliases,
        incumbent=incumbent,
        intent=logbook.open_intent(),
        last_move=logbook.last_move(),
        last_choice=logbook.last_choice(),
        hold=hold.sentence if hold else None,
        hold_was_noted=hold is not None and hold.was_noted,
        freeze=freeze.sentence if freeze else None,
        unjudged=unjudged,
        twins={version.version: twin for version in unjudged if (twin := _earlier_twin(book, version)) is not None},
        quarantined={version.digest: version.version for version in quarantined if version.digest},
        barred=frozenset(version.version for version in quarantined),
        judged_through=judged_through,
        newest=max((version.version for version in versions), default=judged_through),
        heartbeats={
            key.removeprefix(contract.TAG_SERVER_PREFIX): value
            for key, value in tags.items()
            if key.startswith(contract.TAG_SERVER_PREFIX)
        },
    )


def last_rule(registry: ModelOverview, name: str) -> Rule | None:
    """By what the last automatic decision compared versions; None when none of the newest runs says so.

    What a person did is passed over, and so is a pass in which a person wanted the metric to decide.
    """
    runs = registry.latest_runs(contract.decisions_experiment(name), _NUM_ENTRIES)
    entries = (ledger.from_run(run) for run in runs)
    return next((entry.rule for entry in entries if entry.is_automatic and entry.rule.is_of_settings), None)


def is_judged(version: ModelVersion) -> bool:
    """Whether a verdict stands on record for it."""
    tags = version.tags
    is_out = tags.get(contract.TAG_STATE) in (contract.STATE_REJECTED, contract.STATE_QUARANTINED)
    return is_out or contract.TAG_JUDGED in tags


def refusals(version: ModelVersion) -> dict[str, str]:
    """Which servers refused it, and why."""
    prefix = contract.TAG_REFUSED_PREFIX
    return {key.removeprefix(prefix): text for key, text in version.tags.items() if key.startswith(prefix)}


def silence_s(heartbeat: str, *, now: datetime) -> float | None:
    """Seconds since a server wrote about itself; None for one that said that it stops, or wrote nonsense."""
    try:
        document = json.loads(heartbeat)
        return None if document.get("stopped") else (now - datetime.fromisoformat(document["seen"])).total_seconds()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _earlier_twin(book: Book, version: ModelVersion) -> int | None:
    if contract.TAG_STATE in version.tags or version.digest is None:
        return None
    twins = book.versions_tagged(version.name, contract.TAG_MANIFEST, version.digest)
    return next((twin.version for twin in twins if twin.version < version.version), None)


def _version(registry: Registry, name: str, number: int | None) -> ModelVersion | None:
    if number is None:
        return None
    try:
        return registry.get_version(name, number)
    except UnknownModelError:
        return None
