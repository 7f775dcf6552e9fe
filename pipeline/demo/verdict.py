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


def shortcomings(
    usage: Usage, *, versions: Sequence[int], questions: Sequence[Example], first: Answers, last: Answers
) -> list[str]:
    """What is missing, one sentence each; empty when everything was shown."""
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
