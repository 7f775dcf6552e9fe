"""Golden answers: what an engine said when the checkpoint was published, and whether another says the same.

Pure; standard library only. The comparison is teacher-forced: the log-probability of every reference token, so
one near-tie cannot send two good engines down different texts. Greedy tokens count only up to the first place
where the two best tokens are closer than the tolerance.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry_hooks import golden_chat
from registry_hooks.errors import ManifestError
from registry_hooks.golden_chat import MAX_GOLDEN_CHATS, MAX_GOLDEN_PROMPTS, GoldenChat, GreedyToken

__all__ = [
    "GoldenChat",
    "GoldenItem",
    "GoldenSet",
    "GoldenVerdict",
    "GreedyToken",
    "Tolerance",
    "compare",
    "compare_chats",
    "compare_text",
    "parse",
    "tolerance_for",
]

FORMAT = 1
MAX_GOLDEN_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenItem:
    """One prompt and what an engine said of it.

    Attributes:
        token_logprobs: Natural-log probability of prompt tokens 1..T-1 (token 0 has no context).
        greedy: The greedy continuation, at most a few tokens.
    """

    prompt: str
    token_logprobs: tuple[float, ...]
    greedy: tuple[GreedyToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """Answers of one engine.

    Attributes:
        device: `cpu` or `cuda`, of the engine that answered.
        dtype: `float32`, `bfloat16` or `float16`, in which it computed.
        no_chat: Why there are no chats; empty also in golden sets from before chats were recorded.
    """

    items: tuple[GoldenItem, ...]
    device: str
    dtype: str
    chats: tuple[GoldenChat, ...] = ()
    no_chat: str = ""

    @property
    def mean_loss(self) -> float:
        """Mean negative log-likelihood per token over all prompts, in nats."""
        values = [value for item in self.items for value in item.token_logprobs]
        return -math.fsum(values) / len(values)

    def to_json(self) -> bytes:
        """Bytes of `golden.json`."""
        items = [
            {
                "prompt": item.prompt,
                "token_logprobs": list(item.token_logprobs),
                "greedy": [{"text": token.text, "gap": token.gap} for token in item.greedy],
            }
            for item in self.items
        ]
        document = {
            "format": FORMAT,
            "device": self.device,
            "dtype": self.dtype,
            "mean_loss": self.mean_loss,
            "items": items,
            "chats": [chat.to_document() for chat in self.chats],
            "no_chat": self.no_chat,
        }
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far two good engines may differ, in nats per token.

    Attributes:
        mean: Bound on the mean absolute difference, and on the difference of the mean losses.
        largest: Bound on the largest single difference.
    """

    mean: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenVerdict:
    """Whether the answers agree, the numbers, and a sentence for people."""

    passed: bool
    mean_difference: float
    largest_difference: float
    because: str


def parse(data: bytes, *, expected_sha256: str | None = None) -> GoldenSet:
    """Read `golden.json`.

    Raises:
        ManifestError: Another digest than the registry says, not our format, more questions than may be asked, or
            what no engine can be asked: numbers that are not finite, half of a character.
    """
    actual = hashlib.sha256(data).hexdigest()
    if expected_sha256 is not None and actual != expected_sha256:
        raise ManifestError(
            f"golden.json has digest {actual[:12]}…, the registry says {expected_sha256[:12]}…: it was changed after "
            "publishing and the version was not served; publish the checkpoint again"
        )
    try:
        document: Any = json.loads(data)
        if document["format"] != FORMAT:
            raise ManifestError(
                f"golden.json of format {document['format']!r}: this Relay reads format {FORMAT}; upgrade"
            )
        golden = GoldenSet(
            items=tuple(_item(item) for item in document["items"]),
            device=str(document["device"]),
            dtype=str(document["dtype"]),
            chats=tuple(golden_chat.from_document(chat) for chat in document.get("chats", ())),
            no_chat=str(document.get("no_chat", "")),
        )
        finite = math.isfinite(golden.mean_loss)
        if finite:
            golden.to_json()  # what cannot be written cannot be asked
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ManifestError(f"golden.json cannot be read ({error!r}): publish the checkpoint again") from error
    if len(golden.items) > MAX_GOLDEN_PROMPTS or len(golden.chats) > MAX_GOLDEN_CHATS:
        raise ManifestError(
            f"golden.json has {len(golden.items)} prompts and {len(golden.chats)} chats, at most {MAX_GOLDEN_PROMPTS} "
            f"and {MAX_GOLDEN_CHATS} are asked: publish the checkpoint again with fewer"
        )
    if not finite:
        raise ManifestError("golden.json holds answers that are not finite: publish the checkpoint again")
    return golden


def _item(item: Mapping[str, Any]) -> GoldenItem:
    greedy = tuple(GreedyToken(text=str(token["text"]), gap=float(token["gap"])) for token in item["greedy"])
    return GoldenItem(
        prompt=str(item["prompt"]), token_logprobs=tuple(float(v) for v in item["token_logprobs"]), greedy=greedy
    )


def tolerance_for(recorded_dtype: str, observed_dtype: str) -> Tolerance:
    """The tolerance for a pair of dtypes.

    float32 engines differ by summation order only. Half-precision ones differ by rounding at every layer: bfloat16
    keeps 8 bits of significand, and one unlikely token may move far while the mean hardly does.
    """
    if recorded_dtype == observed_dtype == "float32":
        return Tolerance(mean=2e-3, largest=5e-2)
    return Tolerance(mean=5e-2, largest=1.0)


def compare(recorded: GoldenSet, observed: GoldenSet) -> GoldenVerdict:
    """Say whether `observed` reproduces `recorded` within the tolerance of their dtypes."""
    if len(recorded.items) != len(observed.items):
        return _refuse(f"{len(observed.items)} prompts were answered, {len(recorded.items)} were recorded")
    differences: list[float] = []
    for number, (old, new) in enumerate(zip(recorded.items, observed.items, strict=True)):
        if len(old.token_logprobs) != len(new.token_logprobs):
            return _refuse(
                f"prompt {number} has {len(new.token_logprobs) + 1} tokens here and had {len(old.token_logprobs) + 1} "
                "at publishing: another tokenizer"
            )
        differences += [abs(a - b) for a, b in zip(old.token_logprobs, new.token_logprobs, strict=True)]
    if not differences:
        return _refuse("the golden set compares no token at all")
    if not all(map(math.isfinite, differences)):
        return _refuse("a log-probability is not finite")
    return _judge(recorded, observed, differences)


def compare_chats(recorded: GoldenSet, observed: Sequence[GoldenChat], *, dtype: str) -> GoldenVerdict:
    """Say whether the chats of a golden set went as recorded.

    Args:
        dtype: In which the engine computes that answered; any other word for a program that does not say.
    """
    near_tie = tolerance_for(recorded.dtype, dtype).largest
    pairs = list(zip(recorded.chats, observed, strict=True))
    for old, new in pairs:
        wrong = golden_chat.difference(old, new, near_tie=near_tie)
        if wrong is not None:
            return _refuse(f"golden answers differ: {wrong}")
    told = "; ".join(golden_chat.told(old, new, near_tie=near_tie) for old, new in pairs)
    without = f"no chat: {recorded.no_chat}" if recorded.no_chat else "no chat: recorded before chats were"
    return GoldenVerdict(passed=True, mean_difference=0.0, largest_difference=0.0, because=told or without)


def compare_text(recorded: GoldenSet, text: str) -> GoldenVerdict | None:
    """Say whether `text`, a greedy answer to the first prompt, begins as recorded.

    For servers that give no log-probabilities. Only tokens before the first near-tie count, by the tolerance of half
    precision, since nobody knows in which dtype the text was computed.

    Returns:
        None where there is nothing to compare: the very first token was a near-tie.
    """
    near_tie = tolerance_for(recorded.dtype, "unknown").largest
    tokens = itertools.takewhile(lambda token: token.gap > near_tie, recorded.items[0].greedy)
    expected = "".join(token.text for token in tokens)
    if not expected:
        return None
    if not text.startswith(expected):
        return _refuse(f"golden answers differ: the greedy answer begins {text[:40]!r} in place of {expected!r}")
    because = f"golden answer reproduced as text only, {expected!r}: this engine gives no log-probabilities of prompts"
    return GoldenVerdict(passed=True, mean_difference=0.0, largest_difference=0.0, because=because)


def _judge(recorded: GoldenSet, observed: GoldenSet, differences: list[float]) -> GoldenVerdict:
    tolerance = tolerance_for(recorded.dtype, observed.dtype)
    mean, largest = math.fsum(differences) / len(differences), max(differences)
    measured = (
        f"mean {mean:.2g} (at most {tolerance.mean:g}), largest {largest:.2g} (at most {tolerance.largest:g}) nats "
        f"over {len(differences)} tokens, {recorded.dtype} on {recorded.device} recorded, "
        f"{observed.dtype} on {observed.device} here"
    )
    passed = mean <= tolerance.mean and largest <= tolerance.largest
    token = _first_wrong_token(recorded, observed, tolerance.largest) if passed else None
    if token is not None:
        passed, measured = False, f"{token}; {measured}"
    because = f"golden answers {'reproduced' if passed else 'differ'}: {measured}"
    return GoldenVerdict(passed=passed, mean_difference=mean, largest_difference=largest, because=because)


def _first_wrong_token(recorded: GoldenSet, observed: GoldenSet, near_tie: float) -> str | None:
    for number, (old, new) in enumerate(zip(recorded.items, observed.items, strict=True)):
        for place, (expected, token) in enumerate(zip(old.greedy, new.greedy, strict=False)):
            if expected.gap <= near_tie:
                break
            if expected.text != token.text:
                return f"prompt {number}, greedy token {place}: {token.text!r} in place of {expected.text!r}"
    return None


def _refuse(because: str) -> GoldenVerdict:
    return GoldenVerdict(passed=False, mean_difference=math.inf, largest_difference=math.inf, because=because)
