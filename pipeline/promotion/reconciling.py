"""One pass of the promoter: read, say what is next, do it, again until there is nothing to do.

Level-triggered: what to do follows from what the registry says now, never from what was done before. A pass may be
repeated, killed at any point, or run while somebody moves aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from pipeline.promotion import ledger, refusing, standing, waiting
from pipeline.promotion import rule as rules
from pipeline.promotion.acting import Hands, Judgement, SupersededError
from pipeline.promotion.rule import Difference, Rule
from pipeline.promotion.standing import Standing, Terms
from pipeline.promotion.stepping import (
    Acknowledge,
    Admission,
    GoBack,
    Judge,
    NoteMove,
    PromoteBest,
    Rest,
    Settle,
    Step,
    next_step,
)
from pipeline.promotion.trying import Trial, Trouble, after
from registry_hooks import events
from registry_hooks.records import ModelVersion

# More than a crash, a move, an admission, a rollback and some decisions need; beyond that something goes in circles.
MAX_STEPS = 25
# A decision is void when somebody acted meanwhile; nobody does so all the time.
MAX_VOID = 3
_NUM_TOLD = 5


class JudgeOfVersions(Protocol):
    """Compares versions; the promoter does not care how."""

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        """What came of it. Who has neither a story nor a word in `rejected` or `unscored` waits on.

        Args:
            incumbent: None where there is none to be better than: then the best is promoted.
            candidates: At least one.
            gives_up: Whether an incumbent that cannot be scored now either is no bar any more.

        Raises:
            RelayError: Registry or store are away.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a pass did, and where it ended.

    Attributes:
        done: One sentence per step that changed something.
        alerts: What a person should look at.
        is_held_back: Whether it ended where versions were to be compared.
        is_error: Whether it ended since something could not be decided, or went in circles.
    """

    done: Sequence[str]
    resting: str
    alerts: Sequence[str]
    is_held_back: bool = False
    is_error: bool = False


@dataclass(slots=True, kw_only=True)
class Promoter:
    """Passes over one registered model. One at a time.

    Attributes:
        rule: By what `judge` compares, for the record.
        silent_after_s: How old a server's heartbeat may be before that is an alert. It is never a reason to move.
    """

    hands: Hands
    judge: JudgeOfVersions
    clock: Callable[[], datetime]
    rule: Rule = rules.NO_RULE
    silent_after_s: float = 120.0
    _impatient_of: frozenset[Trial] = field(default=frozenset(), init=False)

    def reconcile(self, *, compares: bool = True, is_patient: bool = True) -> Outcome:
        """Do all that is to be done now.

        Args:
            compares: Whether versions may be compared; where not, the pass ends before that.
            is_patient: Whether what could not be scored waits for its time; where not, it is tried once now.

        Raises:
            UnknownModelError: There is no such registered model.
            RegistryUnavailableError: The registry does not answer; what was begun is settled by the next pass.
        """
        done: list[str] = []
        num_void = 0
        self._impatient_of = frozenset()
        if not is_patient:  # by what is on record and not by a clock, which may be behind that of the last try
            self._impatient_of = _trials(self.look())
        for _ in range(MAX_STEPS):
            seen = self.look()
            step = next_step(seen)
            if isinstance(step, Rest):
                self.hands.note_judged_through(seen)
                return Outcome(done=done, resting=step.because, alerts=self._alerts(seen))
            if isinstance(step, Judge) and not compares:
                resting = f"it does not {describe(step)}"
                return Outcome(done=done, resting=resting, alerts=self._alerts(seen), is_held_back=True)
            try:
                because, go_on = self._act(step, seen)
            except SupersededError as error:
                events.logger().info("decision.superseded", because=str(error))
                num_void += 1
                if num_void == MAX_VOID:
                    break
                continue
            done.append(because)
            if not go_on:
                return Outcome(done=done, resting=because, alerts=self._alerts(seen), is_error=True)
        events.logger().error("promoter.in_circles", done=done[-3:])
        circling = "it went in circles and stopped; see its log"
        return Outcome(done=done, resting=circling, alerts=(circling,), is_error=True)

    def _alerts(self, seen: Standing) -> list[str]:
        return alerts(seen, now=self.clock(), silent_after_s=self.silent_after_s)

    def look(self) -> Standing:
        """What the registry says now."""
        hands = self.hands
        terms = Terms(
            now=self.clock(),
            rule=f"{self.rule.policy}/{self.rule.test_set_digest or self.rule.score_metric}",
            metric=self.rule.score_metric,
            silent_after_s=self.silent_after_s,
            impatient_of=self._impatient_of,
        )
        return standing.read(hands.registry, hands.book, hands.name, hands.alias, terms=terms)

    def difference(self) -> Difference | None:
        """How its rule differs from that of the last automatic decision, which is read; None when it does not."""
        return rules.difference(standing.last_rule(self.hands.registry, self.hands.name), self.rule)

    def _act(self, step: Step, seen: Standing) -> tuple[str, bool]:
        """Do it; what was done, and whether to go on."""
        now = self.clock()
        match step:
            case Settle():
                self.hands.settle(step)
            case NoteMove():
                self.hands.note_move(step, now=now)
            case Admission():
                self.hands.admit(step)
                return _told(step), True
            case Acknowledge(target=number, run_id=run_id, because=because):
                self.hands.write_verdict(number, run_id, f"**Promoted**: {because}.", because)
            case PromoteBest():
                return self._promote_best(step, seen, now)
            case GoBack():
                self.hands.go_back(step, seen, now=now)
            case Judge():
                return self._judge(step, seen, now)
            case Rest():
                pass
        return step.because, True

    def _promote_best(self, step: PromoteBest, seen: Standing, now: datetime) -> tuple[str, bool]:
        judgement = self.judge.judge(None, step.candidates)
        because = f"{step.because}; {judgement.because}"
        stories = {
            number: (f"**Promoted**: {because}.", because) if number == judgement.winner else story
            for number, story in judgement.stories.items()
        }
        judgement = replace(judgement, because=because, stories=stories)
        self.hands.conclude(judgement, seen, rule=self.rule, now=now)
        return f"{judgement.kind}: {because}", bool(judgement.stories or judgement.rejected)

    def _judge(self, step: Judge, seen: Standing, now: datetime) -> tuple[str, bool]:
        judgement = self.judge.judge(step.incumbent, step.candidates, gives_up=step.gives_up)
        judgement, trials = self._tried(judgement, step, seen)
        of_all = self._in_the_way(judgement, seen)
        # The same trouble with the same versions is written down once, however often it is met.
        is_news = judgement.kind != ledger.ERROR or judgement.rejected or not self._is_known(seen, trials, of_all)
        if is_news:
            self.hands.conclude(judgement, seen, rule=self.rule, now=now)
        self.hands.note_trials(trials, of_all, was=seen.trial)
        return f"{judgement.kind}: {judgement.because}", bool(judgement.stories or judgement.rejected)

    def _tried(self, judgement: Judgement, step: Judge, seen: Standing) -> tuple[Judgement, dict[int, Trial]]:
        """The judgement in which those that were tried too often are rejected, and the trials of the others."""
        by_number = {version.version: version for version in step.candidates}
        trials = {
            number: after(seen.trial_of(by_number[number]), trouble, rule=seen.terms.rule, now=self.clock())
            for number, trouble in judgement.unscored.items()
        }
        spent = {
            number: f"it could not be scored in {trial.num_faults} tries, and is not tried any more: {trial.why}"
            for number, trial in trials.items()
            if trial.is_spent
        }
        judgement = replace(judgement, rejected={**judgement.rejected, **spent})
        return judgement, {number: trial for number, trial in trials.items() if number not in spent}

    def _in_the_way(self, judgement: Judgement, seen: Standing) -> Trial | None:
        """What an error without a word about single versions says: nobody can be compared for now."""
        if judgement.kind != ledger.ERROR or judgement.rejected or judgement.unscored:
            return None
        trouble = Trouble(because=judgement.because, is_counted=judgement.is_counted)
        about = seen.production or 0
        return after(seen.trial, trouble, rule=seen.terms.rule, now=self.clock(), about=about)

    def _is_known(self, seen: Standing, trials: Mapping[int, Trial], of_all: Trial | None) -> bool:
        known = {version.version: seen.trial_of(version) for version in seen.unjudged}
        pairs = [(known.get(number), trial) for number, trial in trials.items()]
        pairs += [(seen.trial, of_all)] if of_all is not None else []
        return all(old is not None and (old.why, old.rule) == (new.why, new.rule) for old, new in pairs)


def _trials(seen: Standing) -> frozenset[Trial]:
    """All that tell of tries without a score."""
    found = [seen.trial, *(seen.trial_of(version) for version in (*seen.unjudged, *seen.admitted))]
    return frozenset(trial for trial in found if trial is not None)


def alerts(seen: Standing, *, now: datetime, silent_after_s: float) -> list[str]:
    """What a person should look at; nothing of it moves the alias."""
    only = f"servers and the promoter follow {seen.alias!r} only"
    found = [f"there is an alias {other!r}; {only}" for other in seen.look_alikes]
    if seen.is_removed:
        found.append(waiting.removed(seen.alias))
    elif seen.production is None and seen.last_move is not None:
        found.append(f"{waiting.why_no_bar(seen)}, and there is nothing to go back to: `relay promote N` names one")
    if seen.incumbent is not None:
        found += _about_servers(seen, seen.incumbent)
    if seen.trial is not None and waiting.judging_trial(seen) is not None:
        found.append(f"nothing can be compared: {seen.trial.sentence}")
    tried = [(version, trial) for version in seen.unjudged if (trial := seen.trial_of(version)) is not None]
    found += [
        f"version {version.version} could not be scored: {trial.sentence}" for version, trial in tried[:_NUM_TOLD]
    ]
    for server in refusing.servers(seen.heartbeats, now=now):
        if server.silence_s is not None and server.silence_s > silent_after_s:
            found.append(
                f"server {server.name} has been silent for more than {silent_after_s:g} s; nothing is moved for that"
            )
    return found


def _about_servers(seen: Standing, incumbent: ModelVersion) -> list[str]:
    """Who does not serve the incumbent, and why; of a refusal that does not count also why it does not."""
    number = incumbent.version
    refused, counted = refusing.refusals(incumbent), seen.refused(incumbent)
    known = refusing.servers(seen.heartbeats, now=seen.terms.now)
    others = ", ".join(refusing.serving(incumbent, known, silent_after_s=seen.terms.silent_after_s))
    aside = f" (it stays: {others} serves it)" if others else " (it stays: that server is gone)"
    found = [
        f"server {server} refuses version {number}: {why}{'' if server in counted else aside}"
        for server, why in refused.items()
    ]
    declined = refusing.declined(incumbent).items()
    return found + [f"server {server} does not serve version {number}: {why}" for server, why in declined]


def describe(step: Step) -> str:
    """What a step would do, for a dry run."""
    match step:
        case Settle():
            return f"settle an interrupted decision: {step.because}"
        case NoteMove():
            return f"write down: {step.because}" + ("; and hold" if step.holds else "; and release the hold")
        case Admission():
            return _told(step)
        case Acknowledge():
            return f"write the verdict on version {step.target} down: {step.because}"
        case PromoteBest():
            numbers = ", ".join(str(version.version) for version in step.candidates)
            return f"promote the best of {numbers}: {step.because}"
        case GoBack():
            back = "stay" if step.target is None else f"go back to version {step.target}"
            return f"{back}: {step.because}"
        case Judge():
            numbers = ", ".join(str(version.version) for version in step.candidates)
            return f"compare version {step.incumbent.version}, in production, with {numbers}"
        case Rest():
            return f"nothing: {step.because}"


def _told(step: Admission) -> str:
    return "; ".join(f"version {v.version.version} {v.state}: {v.because}" for v in step.verdicts[:5]) + (
        f"; and {len(step.verdicts) - 5} more" if len(step.verdicts) > 5 else ""
    )
