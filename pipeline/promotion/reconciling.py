"""One pass of the promoter: read, say what is next, do it, again until there is nothing to do.

Level-triggered: what to do follows from what the registry says now, never from what was done before. A pass may be
repeated, killed at any point, or run while somebody moves aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pipeline.promotion import ledger, standing
from pipeline.promotion import rule as rules
from pipeline.promotion.acting import Hands, Judgement, SupersededError
from pipeline.promotion.rule import Difference, Rule
from pipeline.promotion.standing import Standing
from pipeline.promotion.stepping import Admission, GoBack, Judge, NoteMove, PromoteFirst, Rest, Settle, Step, next_step
from registry_hooks import events
from registry_hooks.records import ModelVersion

# More than a crash, a move, an admission, a rollback and some decisions need; beyond that something goes in circles.
MAX_STEPS = 25


class JudgeOfVersions(Protocol):
    """Compares versions; the promoter does not care how."""

    def judge(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> Judgement:
        """What came of it. Every candidate has a story, unless the kind is `error`: then all of them wait on.

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
    """

    done: Sequence[str]
    resting: str
    alerts: Sequence[str]
    is_held_back: bool = False


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
    _last_error: tuple[str, tuple[int, ...]] | None = field(default=None, init=False)

    def reconcile(self, *, compares: bool = True) -> Outcome:
        """Do all that is to be done now.

        Args:
            compares: Whether versions may be compared; where not, the pass ends before that.

        Raises:
            UnknownModelError: There is no such registered model.
            RegistryUnavailableError: The registry does not answer; what was begun is settled by the next pass.
        """
        done: list[str] = []
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
                continue
            done.append(because)
            if not go_on:
                return Outcome(done=done, resting=because, alerts=self._alerts(seen))
        events.logger().error("promoter.in_circles", done=done[-3:])
        circling = "it went in circles and stopped; see its log"
        return Outcome(done=done, resting=circling, alerts=(circling,))

    def _alerts(self, seen: Standing) -> list[str]:
        return alerts(seen, now=self.clock(), silent_after_s=self.silent_after_s)

    def look(self) -> Standing:
        """What the registry says now."""
        return standing.read(self.hands.registry, self.hands.book, self.hands.name, self.hands.alias)

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
            case PromoteFirst():
                self.hands.promote_first(step, seen, now=now)
            case GoBack():
                self.hands.go_back(step, seen, now=now)
            case Judge():
                return self._judge(step, seen, now)
            case Rest():
                pass
        return step.because, True

    def _judge(self, step: Judge, seen: Standing, now: datetime) -> tuple[str, bool]:
        judgement = self.judge.judge(step.incumbent, step.candidates)
        if judgement.kind != ledger.ERROR:
            self._last_error = None
            self.hands.conclude(judgement, seen, rule=self.rule, now=now)
            return f"{judgement.kind}: {judgement.because}", True
        # The same trouble with the same versions is written down once, however often it is met.
        trouble = (judgement.because, tuple(version.version for version in step.candidates))
        if trouble != self._last_error or judgement.rejected:
            self.hands.conclude(judgement, seen, rule=self.rule, now=now)
            self._last_error = trouble
        return f"{judgement.kind}: {judgement.because}", bool(judgement.rejected)


def alerts(seen: Standing, *, now: datetime, silent_after_s: float) -> list[str]:
    """What a person should look at; nothing of it moves the alias."""
    only = f"servers and the promoter follow {seen.alias!r} only"
    found = [f"there is an alias {other!r}; {only}" for other in seen.look_alikes]
    if seen.incumbent is not None:
        refused = standing.refusals(seen.incumbent)
        found += [f"server {server} refuses version {seen.production}: {why}" for server, why in refused.items()]
    for server, heartbeat in seen.heartbeats.items():
        silent_s = standing.silence_s(heartbeat, now=now)
        if silent_s is not None and silent_s > silent_after_s:
            found.append(
                f"server {server} has been silent for more than {silent_after_s:g} s; nothing is moved for that"
            )
    return found


def describe(step: Step) -> str:
    """What a step would do, for a dry run."""
    match step:
        case Settle():
            return f"settle an interrupted decision: {step.because}"
        case NoteMove():
            return f"write down: {step.because}" + ("; and hold" if step.holds else "; and release the hold")
        case Admission():
            return _told(step)
        case PromoteFirst():
            return f"promote version {step.version.version}: {step.because}"
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
