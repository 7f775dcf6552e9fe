"""Carries out a step of the promoter, so that a crash at any point leaves something that the next start can settle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.promotion import ledger
from pipeline.promotion.description import with_block
from pipeline.promotion.ledger import Entry
from pipeline.promotion.logbook import Logbook
from pipeline.promotion.marks import PERSON, freeze_of, hold_of, write_mark
from pipeline.promotion.rule import Rule
from pipeline.promotion.standing import Book, Registry, Standing
from pipeline.promotion.stepping import Admission, GoBack, NoteMove, Settle
from pipeline.promotion.trying import Trial, Trouble, write_trial
from registry_hooks import contract, events
from registry_hooks.errors import RelayError, UnknownModelError
from registry_hooks.records import ModelVersion


class SupersededError(RelayError):
    """The registry changed while a decision was made: nothing was moved, and it is looked at anew."""

    transient = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of comparing candidates with the incumbent.

    Attributes:
        kind: `promote`, `keep`, `inconclusive` or `error`.
        winner: The version to promote; None unless `kind` is `promote`.
        stories: Markdown for the description of each version that was judged, and its reason in one sentence.
        rejected: The ones that can never compete again, with the reason.
        unscored: The ones that could not be scored now, and why; they are tried again.
        is_counted: Of an `error` that is about all of them: whether it may lie in the incumbent, so that there is a
            bound on the tries.
        numbers: What was measured.
        document: Every number, bound and threshold, as JSON; empty where there is nothing to say.
    """

    kind: str
    because: str
    winner: int | None = None
    stories: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    rejected: Mapping[int, str] = field(default_factory=dict)
    unscored: Mapping[int, Trouble] = field(default_factory=dict)
    is_counted: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)
    document: str = ""


def _keep_no_report(run_id: str, document: str) -> None:
    """Where nobody wants the report as a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Writes what was decided into the registry.

    Attributes:
        keep_report: Called with a decision's run and its JSON document, once it is committed.
    """

    registry: Registry
    book: Book
    name: str
    alias: str
    keep_report: Callable[[str, str], None] = _keep_no_report

    @property
    def logbook(self) -> Logbook:
        """The ledger of this alias."""
        return Logbook(sink=self.registry, log=self.book, name=self.name, alias=self.alias)

    def settle(self, step: Settle) -> None:
        """Close an intent that a crash left open; what it promoted after all has its verdict then."""
        if step.adopt and step.target is not None:
            self.write_verdict(step.target, step.run_id, f"**Promoted**: {step.because}.", step.because)
        self.logbook.close(step.run_id, failed=not step.adopt, because=step.because)
        events.logger().warning("decision.settled", target=step.target, adopted=step.adopt)

    def note_move(self, step: NoteMove, *, now: datetime) -> None:
        """Write down that somebody moved the alias; the hold first, so that a crash in between loses nothing."""
        mark = hold_of(self.registry.model_tags(self.name), self.alias)
        if step.holds and (mark is None or mark.was_noted):
            self._set_hold(write_mark(who=PERSON, why=step.because, since=now))
        elif not step.holds and mark is not None and mark.was_noted:
            self._set_hold(None)
        entry = Entry(
            kind=ledger.ADOPT if step.adopts else ledger.MANUAL,
            because=step.because,
            target=step.target,
            previous=step.previous,
            by=ledger.PROMOTER if step.adopts else PERSON,
            at=now,
        )
        run_id = self.logbook.write(entry)
        if step.target is not None and not step.adopts:
            self.write_verdict(step.target, run_id, f"**Promoted by hand**: {step.because}.", step.because)
        events.logger().info("alias.moved_by_hand", target=step.target, previous=step.previous, holds=step.holds)

    def admit(self, step: Admission) -> None:
        """Write each version's state; the newest that was admitted becomes the candidate."""
        for verdict in step.verdicts:
            number = verdict.version.version
            for key in verdict.version.copied_tags:  # what was said of the version that it was copied from
                self._tag(number, key, None)
            self._tag(number, contract.TAG_OF, verdict.version.label)
            self._tag(number, contract.TAG_REASON, verdict.because)
            self._tag(number, contract.TAG_STATE, verdict.state)
            if verdict.state != contract.STATE_ADMITTED:
                self._describe(number, f"**{verdict.state.capitalize()}**: {verdict.because}.")
            events.logger().info("version.seen", version=number, state=verdict.state, because=verdict.because)
        admitted = [v.version.version for v in step.verdicts if v.state == contract.STATE_ADMITTED]
        if admitted:
            with contextlib.suppress(UnknownModelError):  # deleted since
                self.book.set_alias(self.name, contract.ALIAS_CANDIDATE, max(admitted))

    def go_back(self, step: GoBack, seen: Standing, *, now: datetime) -> None:
        """Quarantine what servers refused, if anything, and point the alias at what was good before."""
        bad = step.version
        if bad is not None:
            self.bar(bad, step.because)
        if step.target is not None:
            because = f"{step.because}; back to version {step.target}"
            entry = Entry(kind=ledger.ROLLBACK, because=because, target=step.target, previous=seen.production, at=now)
            self.move(entry, seen, keep_last_good=True)

    def note_trials(self, trials: Mapping[int, Trial], of_all: Trial | None, *, was: Trial | None) -> None:
        """Remember what could not be scored, and what is in the way of all; of the latter `was` is no longer."""
        for number, trial in trials.items():
            self._tag(number, contract.tries_tag(self.alias), write_trial(trial))
        if of_all is not None or was is not None:
            told = None if of_all is None else write_trial(of_all)
            self.registry.set_model_tag(self.name, contract.tries_tag(self.alias), told)

    def bar(self, version: ModelVersion, because: str) -> list[int]:
        """Quarantine a version and all with the same files; their numbers."""
        digest = version.digest
        twins = self.book.versions_tagged(self.name, contract.TAG_MANIFEST, digest) if digest else ()
        numbers = sorted({version.version, *(twin.version for twin in twins)})
        for number in numbers:
            self._tag(number, contract.TAG_REASON, because)
            self._tag(number, contract.TAG_STATE, contract.STATE_QUARANTINED)
            self._describe(number, f"**Quarantined**: {because}.")
        events.logger().warning("version.quarantined", versions=numbers, because=because)
        return numbers

    def conclude(self, judgement: Judgement, seen: Standing, *, rule: Rule, now: datetime) -> None:
        """Write a decision by `rule` down; of a promotion the intent comes first and the commit last."""
        entry = Entry(
            kind=judgement.kind,
            because=judgement.because,
            target=judgement.winner,
            previous=seen.production if judgement.winner is not None else None,
            rule=rule,
            numbers=judgement.numbers,
            at=now,
        )
        if judgement.winner is None:
            run_id = self.logbook.write(entry)
        else:
            run_id = self.move(entry, seen, keep_last_good=not seen.has_a_bar)
        events.logger().info("decision.made", kind=judgement.kind, winner=judgement.winner, because=judgement.because)
        for number, (story, reason) in judgement.stories.items():
            self.write_verdict(number, run_id, story, reason)
        for number, reason in judgement.rejected.items():
            self._tag(number, contract.TAG_REASON, reason)
            self._tag(number, contract.TAG_STATE, contract.STATE_REJECTED)
            self._describe(number, f"**Rejected**: {reason}.")
        if judgement.document:
            self.keep_report(run_id, judgement.document)

    def move(self, entry: Entry, seen: Standing, *, keep_last_good: bool = False) -> str:
        """Intent, alias, commit; the decision's run.

        Raises:
            SupersededError: The alias, a hold or a freeze changed since `seen`; nothing was moved.
        """
        self._check_unchanged(entry, seen)
        run_id = self.logbook.open(entry)
        try:
            self._check_unchanged(entry, seen)
            self.book.set_alias(self.name, self.alias, entry.target)
        except (SupersededError, UnknownModelError) as error:
            self.logbook.close(run_id, failed=True, because=f"{entry.because} (void: {error})")
            raise SupersededError(str(error)) from error
        if not keep_last_good and seen.production is not None:
            with contextlib.suppress(UnknownModelError):  # deleted since
                self.book.set_alias(self.name, contract.ALIAS_LAST_GOOD, seen.production)
        self.logbook.close(run_id, failed=False, because=entry.because)
        events.logger().info("alias.moved", kind=entry.kind, target=entry.target, previous=entry.previous)
        return run_id

    def judge_again(self, number: int, story: str) -> None:
        """Take back the verdict on a version; the marks up to which all are judged last, since they would hide it."""
        judged, tries = contract.judged_tag(self.alias), contract.tries_tag(self.alias)
        for key in (judged, contract.TAG_STATE, contract.TAG_REASON, tries):
            self._tag(number, key, None)
        self._describe(number, story)
        for key, text in self.registry.model_tags(self.name).items():  # its state counts for all aliases
            if key.startswith(contract.TAG_JUDGED_THROUGH) and (contract.whole_number(text) or 0) >= number:
                self.registry.set_model_tag(self.name, key, str(number - 1))

    def write_verdict(self, number: int, run_id: str, story: str, reason: str) -> None:
        """Say on a version why it was, or was not, promoted; of what alias, where it is not the usual one."""
        where = "" if self.alias == contract.ALIAS_PRODUCTION else f"{self.alias}: "
        self._describe(number, where + story)
        self._tag(number, contract.TAG_REASON, where + reason)
        self._tag(number, contract.judged_tag(self.alias), run_id)

    def note_judged_through(self, seen: Standing) -> None:
        """Remember up to which version all are judged, so that thousands need not be read again."""
        through = min((version.version - 1 for version in seen.unjudged), default=seen.newest)
        if through <= seen.judged_through:
            return
        key = contract.judged_through_tag(self.alias)
        before = str(seen.judged_through) if seen.judged_through else None
        if self.registry.model_tags(self.name).get(key) == before:  # nobody asked for a second look meanwhile
            self.registry.set_model_tag(self.name, key, str(through))

    def _check_unchanged(self, entry: Entry, seen: Standing) -> None:
        """The last look before a write: there is no compare-and-set, so the window is one round trip."""
        now = self.registry.aliases(self.name).get(self.alias)
        if now != seen.production:
            raise SupersededError(f"{self.alias} names version {now} by now and named {seen.production}")
        tags = self.registry.model_tags(self.name)
        if hold_of(tags, self.alias) is not None and seen.hold is None:
            raise SupersededError("a hold was set meanwhile")
        if freeze_of(tags, self.alias) is not None and seen.freeze is None and entry.kind == ledger.PROMOTE:
            raise SupersededError("a freeze was set meanwhile")

    def _tag(self, number: int, key: str, value: str | None) -> None:
        with contextlib.suppress(UnknownModelError):  # deleted since: there is nothing to say of it
            self.registry.set_version_tag(self.name, number, key, value)

    def _describe(self, number: int, markdown: str) -> None:
        """Replace Relay's own block in a version's description; one that Relay did not publish has none."""
        with contextlib.suppress(UnknownModelError):
            version = self.registry.get_version(self.name, number)
            described = with_block(version.description, markdown)
            if version.digest is not None and described != version.description:
                self.book.describe_version(self.name, number, described)

    def _set_hold(self, mark: str | None) -> None:
        self.registry.set_model_tag(self.name, contract.hold_tag(self.alias), mark)
