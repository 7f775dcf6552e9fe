"""Whether the demo showed what it promises. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.demo.tasks import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The same questions, answered by one version."""

    version: int
    texts: tuple[str, ...]

    def num_right(self, questions: Sequence[Example]) -> int:
        """How many of the answers are exactly right."""
        return sum(text.strip() == one.answer for text, one in zip(self.texts, questions, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the clients saw.

    Attributes:
        num_whole: Whole streams per version.
        num_unanswered: Requests of which nothing is known after the clients have stopped.
    """

    num_sent: int
    num_failed: int
    num_unanswered: int
    num_whole: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the promoter did.

    Attributes:
        kinds: Of its decisions, oldest first.
        num_versions: That were published.
        unjudged: Versions without a verdict.
        moved_to: Where the person pointed the alias.
        stayed_at: Where it pointed after the promoter had passed over it.
        is_held: Whether the registry says that it is held.
    """

    kinds: Sequence[str]
    num_versions: int
    unjudged: Sequence[int]
    moved_to: int
    stayed_at: int | None
    is_held: bool


def shortcomings_of_promotion(decided: Decided, *, num_wanted: int) -> list[str]:
    """What the promoter did not show, one sentence each."""
    missing = []
    if decided.num_versions < num_wanted:
        missing.append(f"{decided.num_versions} versions were published in place of {num_wanted}")
    if (promotions := decided.kinds.count("promote")) < 2:
        missing.append(f"{promotions} automatic promotions in place of at least two")
    if not {"keep", "inconclusive"} & set(decided.kinds):
        missing.append("no decision left Production where it was")
    missing += [f"version {one} has no verdict" for one in decided.unjudged]
    if decided.stayed_at != decided.moved_to or not decided.is_held:
        there = f"version {decided.stayed_at} is there now"
        missing.append(f"the person's move to version {decided.moved_to} was not held: {there}")
    return missing


def shortcomings(
    usage: Usage, *, versions: Sequence[int], questions: Sequence[Example], first: Answers, last: Answers
) -> list[str]:
    """What users did not see, one sentence each; empty when everything was shown."""
    missing = []
    if usage.num_failed:
        missing.append(f"{usage.num_failed} of {usage.num_sent} requests failed")
    if usage.num_unanswered:
        missing.append(f"{usage.num_unanswered} of {usage.num_sent} requests were never answered")
    missing += [f"no stream came from version {one}" for one in versions if not usage.num_whole.get(one)]
    before, after = first.num_right(questions), last.num_right(questions)
    if after <= before:
        missing.append(
            f"version {last.version} answers {after} of {len(questions)} questions right, version {first.version} "
            f"answered {before}: training went wrong"
        )
    return missing
