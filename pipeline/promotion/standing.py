"""What the registry says about a model at one moment: all that the promoter knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from pipeline.promotion import ledger, refusing
from pipeline.promotion.ledger import Entry
from pipeline.promotion.logbook import NUM_MOVES, Logbook
from pipeline.promotion.marks import freeze_of, hold_of
from pipeline.promotion.rule import Rule
from pipeline.promotion.trying import Trial, is_due, read_trial
from pipeline.promotion.way_back import way_back
from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.ports import IntentLog, ModelOverview, ReportSink, VersionBook, VersionSource
from registry_hooks.records import ModelVersion

# Among how many of the newest decisions the rule of the last automatic one is looked for.
_NUM_ENTRIES = 100
# How many steps back are looked at.
_NUM_WAYS_BACK = 20
# How many of the newest are chosen from where all were judged before.
_NUM_ADMITTED = 50


class Registry(VersionSource, ReportSink, ModelOverview, Protocol):
    """What the promoter reads, and reports to, as servers do."""


class Book(VersionBook, IntentLog, Protocol):
    """What only the promoter needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the promoter brings along when it looks at the registry.

    Attributes:
        now: Wall clock, UTC.
        rule: By what it compares; what could not be scored for another rule is tried again at once.
        metric: The metric that decides alone; empty where a test set decides.
        silent_after_s: How old the heartbeat of a live server may be.
        impatient_of: Trials whose waits do not count, since a person wants tried what they tell of.
    """

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    rule: str = ""
    metric: str = ""
    silent_after_s: float = 120.0
    impatient_of: frozenset[Trial] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The registry at one moment.

    Attributes:
        incumbent: The version that the alias names; None when it names none, or one that is not there.
        intent: A decision that was begun and not committed; None when there is none.
        last_move: The last committed move of the alias.
        is_ledger_empty: Whether no decision at all is on record, about whatever alias.
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
        served: What the alias named before and is still there, the last first; read only where a way back is wanted.
        admitted: Who may compete, judged or not; read only where what the alias named may not serve.
        trial: What is in the way of all comparing; None when nothing is known to be.
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
    served: Sequence[ModelVersion] = ()
    admitted: Sequence[ModelVersion] = ()
    trial: Trial | None = None
    is_ledger_empty: bool = False
    terms: Terms = field(default_factory=Terms)

    @property
    def production(self) -> int | None:
        """The version that the alias names; None when it names none."""
        return self.aliases.get(self.alias)

    @property
    def look_alikes(self) -> list[str]:
        """Aliases that somebody may have set in place of the right one."""
        return contract.look_alikes(self.aliases, self.alias)

    @property
    def has_a_bar(self) -> bool:
        """Whether there is an incumbent that others have to be better than: one that is there and may serve."""
        incumbent = self.incumbent
        return incumbent is not None and not self.is_barred(incumbent) and not self.refused(incumbent)

    @property
    def has_lost_its_ledger(self) -> bool:
        """Whether a decision was made about the incumbent, and none is on record. A mere admission is no decision."""
        if self.incumbent is None:
            return False
        return self.is_ledger_empty and contract.judged_tag(self.alias) in self.incumbent.tags

    @property
    def is_removed(self) -> bool:
        """Whether somebody deleted the alias, and nobody has set it since."""
        return self.production is None and self.last_move is not None and self.last_move.target is None

    @property
    def is_lost(self) -> bool:
        """Whether what the alias named was deleted, and the alias with it."""
        named = self.last_move.target if self.production is None and self.last_move is not None else None
        return named is not None and named not in {version.version for version in self.served}

    @property
    def way_back(self) -> list[ModelVersion]:
        """Where to go back to, the nearest first: what served before, is still there, and was not refused."""
        return [one for one in self.served if self._may_serve_instead(one)]

    @property
    def rivals(self) -> list[ModelVersion]:
        """Who competes: those without a verdict. Where there is no bar and nobody waits, a verdict is no hindrance:
        it was that they are not better than something which may not serve any more.
        """
        waiting = [version for version in self.unjudged if version.version != self.production]
        if waiting or self.has_a_bar:
            return waiting
        return [one for one in self.admitted if self._may_serve_instead(one)][-_NUM_ADMITTED:]

    def _may_serve_instead(self, version: ModelVersion) -> bool:
        return version.version != self.production and not self.is_barred(version) and not self.refused(version)

    def is_barred(self, version: ModelVersion) -> bool:
        """Whether it is quarantined, or has the same files as one that is."""
        return version.version in self.barred or version.digest in self.quarantined

    def refused(self, version: ModelVersion) -> dict[str, str]:
        """The refusals of servers that count against it."""
        known = refusing.servers(self.heartbeats, now=self.terms.now)
        return refusing.counted(version, known, silent_after_s=self.terms.silent_after_s)

    def trial_of(self, version: ModelVersion) -> Trial | None:
        """What is known of a version that could not be scored."""
        return read_trial(version.tags.get(contract.tries_tag(self.alias)))

    def is_due(self, trial: Trial | None) -> bool:
        """Whether to try what a trial tells of now."""
        terms = self.terms
        return is_due(trial, rule=terms.rule, now=terms.now, known=terms.impatient_of)


def read(
    registry: Registry, book: Book, name: str, alias: str, *, thorough: bool = False, terms: Terms | None = None
) -> Standing:
    """Read it.

    Args:
        thorough: Whether the quarantined versions and the way back are wanted also when nothing calls for them; in a
            large registry they are dear to find.
        terms: None for those of somebody who compares nothing.

    Raises:
        UnknownModelError: There is no such registered model.
        RegistryUnavailableError: The registry does not answer.
    """
    tags = registry.model_tags(name)
    aliases = registry.aliases(name)
    hold, freeze = hold_of(tags, alias), freeze_of(tags, alias)
    logbook = Logbook(sink=registry, log=book, name=name, alias=alias)
    judged_through = contract.whole_number(tags.get(contract.judged_through_tag(alias))) or 0
    versions = book.versions_after(name, judged_through)
    unjudged = [version for version in versions if not is_judged(version, alias)]
    incumbent = _version(registry, name, aliases.get(alias))
    is_in_trouble = thorough or incumbent is None or _is_in_trouble(incumbent)
    of_state = partial(book.versions_tagged, name, contract.TAG_STATE)
    quarantined = of_state(contract.STATE_QUARANTINED) if is_in_trouble or unjudged else ()
    last_move = logbook.last_move()
    return Standing(
        name=name,
        alias=alias,
        aliases=aliases,
        incumbent=incumbent,
        intent=logbook.open_intent(),
        last_move=last_move,
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
        served=_served(registry, name, logbook) if is_in_trouble and last_move is not None else (),
        admitted=of_state(contract.STATE_ADMITTED) if is_in_trouble and not thorough else (),
        trial=read_trial(tags.get(contract.tries_tag(alias))),
        is_ledger_empty=last_move is None and not logbook.newest(1),
        terms=terms or Terms(),
    )


def last_rule(registry: ModelOverview, name: str) -> Rule | None:
    """By what the last automatic decision compared versions; None when none of the newest runs says so.

    What a person did is passed over, and so is a pass in which a person wanted the metric to decide.
    """
    runs = registry.latest_runs(contract.decisions_experiment(name), _NUM_ENTRIES)
    entries = (ledger.from_run(run) for run in runs)
    return next((entry.rule for entry in entries if entry.is_automatic and entry.rule.is_of_settings), None)


def is_judged(version: ModelVersion, alias: str) -> bool:
    """Whether a verdict stands on record for it: about `alias`, or that it may serve nowhere."""
    tags = version.tags
    is_out = tags.get(contract.TAG_STATE) in (contract.STATE_REJECTED, contract.STATE_QUARANTINED)
    return is_out or contract.judged_tag(alias) in tags


def _earlier_twin(book: Book, version: ModelVersion) -> int | None:
    if contract.TAG_STATE in version.tags or version.digest is None:
        return None
    twins = book.versions_tagged(version.name, contract.TAG_MANIFEST, version.digest)
    return next((twin.version for twin in twins if twin.version < version.version), None)


def _is_in_trouble(incumbent: ModelVersion) -> bool:
    is_out = incumbent.tags.get(contract.TAG_STATE) == contract.STATE_QUARANTINED
    return is_out or bool(refusing.refusals(incumbent))


def _served(registry: Registry, name: str, logbook: Logbook) -> list[ModelVersion]:
    numbers = way_back(logbook.moves(NUM_MOVES))[:_NUM_WAYS_BACK]
    return [version for number in numbers if (version := _version(registry, name, number)) is not None]


def _version(registry: Registry, name: str, number: int | None) -> ModelVersion | None:
    if number is None:
        return None
    try:
        return registry.get_version(name, number)
    except UnknownModelError:
        return None
