"""The evaluations of one decision: on record or made now, what could not be made, and whose fault that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.evaluation.results import Evaluation
from pipeline.promotion.blaming import Fault, fault_of
from pipeline.promotion.trying import Trouble
from registry_hooks.errors import RelayError
from registry_hooks.records import ModelVersion


@dataclass(slots=True, kw_only=True)
class Evaluations:
    """Collects them.

    Attributes:
        known: What is on record of a version; None when there is nothing.
        evaluate: Scores a version now.
        scored: By version.
        broken: Versions that can never be scored, or the test set never on them, and why.
        gone: Those of them where no test set is at fault.
        troubles: Versions that could not be scored now, and why.
        halted: What is in the way of all; empty when nothing is.
    """

    known: Callable[[ModelVersion], Evaluation | None]
    evaluate: Callable[[ModelVersion], Evaluation]
    scored: dict[int, Evaluation] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    troubles: dict[int, Trouble] = field(default_factory=dict)
    halted: str = ""
    _fresh: set[int] = field(default_factory=set)

    def add(self, version: ModelVersion, *, anew: bool = False) -> None:
        """Find the evaluation of a version; with `anew` what is on record does not count."""
        number = version.version
        try:
            found = None if anew else self.known(version)
            if found is None:
                found = self.evaluate(version)
                self._fresh.add(number)
        except RelayError as error:
            self.scored.pop(number, None)
            self._note(version, error)
        else:
            self.scored[number] = found

    def in_the_way(self, incumbent: ModelVersion) -> Trouble | None:
        """Why nobody can be compared with the incumbent now; None where it was scored, and where it never can be."""
        if self.halted:
            return Trouble(because=self.halted, is_counted=False)
        trouble = self.troubles.get(incumbent.version)
        if trouble is None:
            return None
        because = f"version {incumbent.version}, which is in production, could not be scored: {trouble.because}"
        return Trouble(because=because, is_counted=trouble.is_counted)

    def give_up(self, incumbent: ModelVersion) -> Trouble | None:
        """Take it as never to be scored where it could not be scored now either; its trouble, None without one."""
        trouble = self.troubles.pop(incumbent.version, None)
        if trouble is not None:
            self.broken[incumbent.version] = trouble.because
        return trouble

    def make_alike(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> None:
        """Score anew what was scored in another way, before an upgrade say; leave out who still differs.

        What was scored just now counts, and without that the incumbent's is made anew.
        """
        sides = [one for one in (incumbent, *candidates) if one.version in self.scored]
        if self._is_blocked(incumbent) or len({self.scored[one.version].fingerprint for one in sides}) < 2:
            return
        if not self._fresh:
            self.add(incumbent, anew=True)
        for one in sides:
            if self._is_blocked(incumbent):
                return
            todays = {self.scored[number].fingerprint for number in self._fresh if number in self.scored}
            if one.version not in self._fresh and self.scored[one.version].fingerprint not in todays:
                self.add(one, anew=True)
        base = self.scored[incumbent.version]
        for one in candidates:
            found = self.scored.get(one.version)
            if found is not None and found.fingerprint != base.fingerprint:
                because = f"it was scored in another way than version {incumbent.version} ({_ways(found, base)})"
                self.troubles[one.version] = Trouble(because=because, is_counted=False)
                del self.scored[one.version]

    def _is_blocked(self, incumbent: ModelVersion) -> bool:
        return bool(self.halted) or incumbent.version not in self.scored

    def about_form(self, incumbent: int, number: int) -> str:
        """What a version has otherwise than the incumbent beside its weights, for its story; empty for nothing."""
        if number not in self.scored:
            return ""
        base, one = self.scored[incumbent].form, self.scored[number].form
        differs = sorted(key for key in base.keys() | one.keys() if base.get(key) != one.get(key))
        return (
            f"\n\n**Note**: beside its weights it differs from version {incumbent} in: {', '.join(differs)}. "
            "Each was asked in its own form, as users would ask it."
            if differs
            else ""
        )

    def _note(self, version: ModelVersion, error: RelayError) -> None:
        match fault_of(error):
            case Fault.GONE:
                self.broken[version.version] = str(error)
                self.gone.add(version.version)
            case Fault.VERSION:
                self.broken[version.version] = str(error)
            case Fault.UNSURE:
                self.troubles[version.version] = Trouble(because=str(error), is_counted=True)
            case Fault.MOMENT:
                self.halted = f"version {version.version} could not be scored: {error}"


def _ways(one: Evaluation, base: Evaluation) -> str:
    return f"{one.device}, {one.fingerprint[:12]} and {base.device}, {base.fingerprint[:12]}"
