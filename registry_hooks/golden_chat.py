"""Golden chats: what users ask is what is checked. The tokens of the template, the greedy answer, and why it ended.

Pure; standard library only. Raw prompts say nothing of a chat template or of end tokens: a checkpoint whose template is
broken answers every prompt rightly and every chat wrongly. As with prompts, greedy tokens count only up to the first
place where the two best tokens are closer than the tolerance; the end of an answer is such a place, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STOP = "stop"
# Every server asks a whole golden set before it serves a version; each question is at least a pass over all weights.
MAX_GOLDEN_PROMPTS, MAX_GOLDEN_CHATS, MAX_ANSWER_TOKENS = 512, 64, 1024
_SHOWN_IDS, _SHOWN_CHARS = 4, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyToken:
    """One token of a greedy continuation.

    Attributes:
        gap: Log-probability of this token minus that of the second best; at least 0.
    """

    text: str
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenChat:
    """One chat, and what an engine made of it.

    Attributes:
        messages: Role and content of each.
        prompt_ids: What the template made of them; None where the engine does not say.
        is_dated: Whether the template asks for the date, so that ids and answer may differ another day.
        max_tokens: Bound on the answer, so that one which never ends does.
        tokens: Of the answer; empty where the engine gives no log-probabilities.
        finish_reason: `stop` when the model ended the answer, `length` when the bound did.
        end_gap: Log-probability of the end minus that of going on; 0, a tie, where nobody knows.
    """

    messages: tuple[tuple[str, str], ...]
    prompt_ids: tuple[int, ...] | None
    is_dated: bool
    max_tokens: int
    text: str
    tokens: tuple[GreedyToken, ...]
    finish_reason: str
    end_gap: float = 0.0

    def to_document(self) -> dict[str, Any]:
        """As it stands in `golden.json`."""
        return {
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "prompt_ids": None if self.prompt_ids is None else list(self.prompt_ids),
            "is_dated": self.is_dated,
            "max_tokens": self.max_tokens,
            "text": self.text,
            "tokens": [{"text": token.text, "gap": token.gap} for token in self.tokens],
            "finish_reason": self.finish_reason,
            "end_gap": self.end_gap,
        }


def from_document(document: Mapping[str, Any]) -> GoldenChat:
    """The chat of `to_document`; ValueError, KeyError or TypeError where it is none."""
    ids, max_tokens = document["prompt_ids"], int(document["max_tokens"])
    if max_tokens > MAX_ANSWER_TOKENS:
        raise ValueError(f"max_tokens {max_tokens:.3g}: a golden chat has at most {MAX_ANSWER_TOKENS}")
    return GoldenChat(
        messages=tuple((str(message["role"]), str(message["content"])) for message in document["messages"]),
        prompt_ids=None if ids is None else tuple(int(token_id) for token_id in ids),
        is_dated=bool(document["is_dated"]),
        max_tokens=max_tokens,
        text=str(document["text"]),
        tokens=tuple(GreedyToken(text=str(token["text"]), gap=float(token["gap"])) for token in document["tokens"]),
        finish_reason=str(document["finish_reason"]),
        end_gap=float(document["end_gap"]),
    )


def difference(recorded: GoldenChat, observed: GoldenChat, *, near_tie: float) -> str | None:
    """How `observed` differs from `recorded` in what both say for sure; None where it does not.

    Args:
        near_tie: A gap up to this says nothing about another engine.
    """
    if not _has_other_prompt(recorded, observed):
        return _other_answer(recorded, observed, near_tie)
    return None if recorded.is_dated else _other_ids(recorded.prompt_ids or (), observed.prompt_ids or ())


def told(recorded: GoldenChat, observed: GoldenChat, *, near_tie: float) -> str:
    """What was compared, for people, once there is no `difference`."""
    if _has_other_prompt(recorded, observed):
        return "the chat is answered; its template tells the date, so nothing more could be compared"
    if recorded.prompt_ids is None or observed.prompt_ids is None:
        prompt = "its token ids could not be compared, since " + (
            "they were not recorded" if recorded.prompt_ids is None else "this engine has no /tokenize"
        )
    else:
        prompt = f"its {len(recorded.prompt_ids)} token ids are the same"
    num_sure = len(_sure(recorded, near_tie))
    answer = f"{num_sure} of the answer's {len(recorded.tokens)} tokens" if num_sure else "no token, for near-ties,"
    if _ends_for_sure(recorded, near_tie):
        answer += " and its end"
    return f"a chat as recorded: {prompt}, {answer} compared{ends(recorded)}"


def ends(chat: GoldenChat) -> str:
    """A warning where the answer did not end by itself; nothing else."""
    if chat.finish_reason == STOP:
        return ""
    return f"; its greedy answer does not end within {chat.max_tokens} tokens"


def _has_other_prompt(recorded: GoldenChat, observed: GoldenChat) -> bool:
    """Whether the model was shown something else, or may have been."""
    if recorded.prompt_ids is None or observed.prompt_ids is None:
        return recorded.is_dated
    return recorded.prompt_ids != observed.prompt_ids


def _sure(recorded: GoldenChat, near_tie: float) -> list[GreedyToken]:
    return list(itertools.takewhile(lambda token: token.gap > near_tie, recorded.tokens))


def _ends_for_sure(recorded: GoldenChat, near_tie: float) -> bool:
    is_sure = len(_sure(recorded, near_tie)) == len(recorded.tokens)
    return is_sure and recorded.finish_reason == STOP and recorded.end_gap > near_tie


def _other_ids(recorded: Sequence[int], observed: Sequence[int]) -> str:
    place = _num_common(recorded, observed)
    here, there = observed[place : place + _SHOWN_IDS], recorded[place : place + _SHOWN_IDS]
    return (
        f"the chat has {len(observed)} tokens after its template and had {len(recorded)} at publishing; from token "
        f"{place} on {list(here)} in place of {list(there)}: another chat template or tokenizer"
    )


def _other_answer(recorded: GoldenChat, observed: GoldenChat, near_tie: float) -> str | None:
    compare = _other_tokens if observed.tokens else _other_text
    wrong = compare(recorded, observed, near_tie)
    if wrong is not None or not _ends_for_sure(recorded, near_tie):
        return wrong
    # Some programs count the end token among the answer's.
    goes_on = bool(observed.tokens) and len(observed.tokens) > len(recorded.tokens) + 1
    if observed.finish_reason == STOP and not goes_on:
        return None
    return (
        f"the answer to the chat goes on ({observed.text[:_SHOWN_CHARS]!r}, finish reason {observed.finish_reason!r}) "
        f"where it ended by itself at publishing ({recorded.text[:_SHOWN_CHARS]!r}): an end token is missing"
    )


def _other_tokens(recorded: GoldenChat, observed: GoldenChat, near_tie: float) -> str | None:
    sure = _sure(recorded, near_tie)
    for place, (expected, token) in enumerate(zip(sure, observed.tokens, strict=False)):
        if expected.text != token.text:
            return f"the answer to the chat, token {place}: {token.text!r} in place of {expected.text!r}"
    if len(observed.tokens) >= len(sure):
        return None
    return (
        f"the answer to the chat ends after {len(observed.tokens)} tokens (finish reason {observed.finish_reason!r}) "
        f"and went on with {sure[len(observed.tokens)].text!r} at publishing"
    )


def _other_text(recorded: GoldenChat, observed: GoldenChat, near_tie: float) -> str | None:
    """As tokens, for programs that give no log-probabilities; names of tokens need not be the text that they make."""
    named = "".join(token.text for token in _sure(recorded, near_tie))
    expected = recorded.text[: _num_common(named, recorded.text)]
    if observed.text.startswith(expected):
        return None
    return f"the answer to the chat begins {observed.text[:_SHOWN_CHARS]!r} in place of {expected[:_SHOWN_CHARS]!r}"


def _num_common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest beginning that both have."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
