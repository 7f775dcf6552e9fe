"""What the API asks of the engine, and the events that it gets back. Pure: no torch, no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StopReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: Probability mass of the nucleus, 0..1; the likeliest token is always in it.
        top_k: Only the so many likeliest tokens; 0 for all.
        min_p: Only tokens of at least this share of the likeliest one's probability.
        frequency_penalty: Taken from a token's logit for each time that the answer has it already.
        presence_penalty: Taken from a token's logit once the answer has it.
        repetition_penalty: What the logits of all tokens of prompt and answer are divided by (multiplied, if negative).
        logit_bias: Token id to what is added to its logit.
        seed: Of the request's own generator; None draws a new one.
        choice: Which of several answers to one prompt this is, from 0; each has a generator of its own.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, checked against the model's limits.

    Attributes:
        max_new_tokens: 0 only reads the prompt.
        num_top_logprobs: Alternatives to report with each token; None reports no log-probabilities.
        scores_from: Report the prompt's tokens too, from this one on; 1 is the first that has a context.
        stop_ids: Tokens that end this answer, beside those that end every answer of the model.
        scores_end: Report the end token too, where log-probabilities are reported: who reads a prompt's scores from
            an answer of one token counts on one more token after them.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    num_top_logprobs: int | None = None
    scores_from: int | None = None
    scores_end: bool = False
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScore:
    """Natural-log probabilities at one place, from the raw logits.

    Attributes:
        logprob: Of the token that stands there.
        top: Token ids and log-probabilities of the likeliest, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReused:
    """The prompt is being read; its first tokens need not be, since another request had them."""

    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """The whole prompt has been read.

    Attributes:
        scores: Of prompt tokens 1..T-1 (token 0 has no context); None before `scores_from`.
    """

    scores: tuple[TokenScore | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMade:
    """One more token."""

    token_id: int
    score: TokenScore | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last event of an answer that came to its end.

    Attributes:
        end: The end token with its score, where that was asked for; it is not among the text.
    """

    reason: StopReason
    end: TokenMade | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The last event of an answer that did not."""

    because: str


Event = PromptReused | PromptScored | TokenMade | Finished | Failed
