"""By what versions are compared, as a decision's run tells of it, and whether that differs from last time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """By what versions are compared. Each attribute is a param of the decision's run; what is empty is left out there.

    Attributes:
        policy: Its digest.
        score_metric: The metric that decides alone; empty where the scores on a test set decide.
        test_set: Its name; empty where there is none, as the two that follow.
        test_set_digest: sha256 over its items.
        test_set_source: The file that it was read from.
        test_set_sample: How many of its items are drawn for each decision; empty for all of them.
        asked_by: Who wanted the metric to decide in that one pass; empty where the settings say what decides.
    """

    policy: str = ""
    score_metric: str = ""
    test_set: str = ""
    test_set_digest: str = ""
    test_set_source: str = ""
    test_set_sample: str = ""
    asked_by: str = ""

    @property
    def is_of_settings(self) -> bool:
        """Whether it says what decides wherever the settings are the same."""
        return bool(self.score_metric or self.test_set_digest) and not self.asked_by

    @property
    def in_words(self) -> str:
        drawn = f"{self.test_set_sample} items of " if self.test_set_sample else ""
        test_set = f"{drawn}test set {self.test_set} ({self.test_set_digest[:12]})"
        return f"{test_set if self.test_set_digest else self.score_metric} with policy {self.policy}"


NO_RULE = Rule()  # nothing was compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How a decision would be made otherwise than the last automatic one.

    Attributes:
        is_weaker: A test set decided then, and the metric would decide here, which nobody asked for.
        sentence: Both rules, and what to do about a weaker one.
    """

    is_weaker: bool
    sentence: str


def to_params(rule: Rule) -> dict[str, str]:
    """The params of a decision's run that tell of `rule`."""
    return {key: value for key, value in asdict(rule).items() if value}


def from_params(params: Mapping[str, str]) -> Rule:
    """The rule that a decision's run tells of; an empty one where nothing was compared."""
    return Rule(**{field.name: params.get(field.name, "") for field in fields(Rule)})


def difference(last: Rule | None, now: Rule) -> Difference | None:
    """How `now` differs from the rule of the last automatic decision; None when it does not.

    Args:
        last: None where nothing says what it was; then there is nothing to differ from.
        now: By what the next decision would be made.
    """
    if last is None or _decides_by(last) == _decides_by(now):
        return None
    both = f"the last automatic decision was by {last.in_words}; here it would be by {now.in_words}"
    if now.test_set_digest or not last.test_set_digest or now.asked_by:
        return Difference(is_weaker=False, sentence=both)
    mend = f"Set evaluate.test_set (RELAY_EVALUATE__TEST_SET) to that test set, read from {last.test_set_source} then"
    return Difference(is_weaker=True, sentence=f"{both}, a weaker rule, since no test set is set. {mend}")


def _decides_by(rule: Rule) -> tuple[str, str, str]:
    return rule.policy, rule.test_set_digest, rule.test_set_sample
