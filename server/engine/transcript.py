"""One answer as it grows: events of the engine in, text and log-probabilities for the wire out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server.engine.asks import Finished, PromptScored, StopReason, TokenMade, TokenScore
from server.engine.detokenizing import Detokenizer
from server.engine.stopping import StopMatcher
from server.engine.token_texts import TokenText

# JSON has no infinity; OpenAI writes an impossible token so.
LOWEST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token as `logprobs` shows it.

    Attributes:
        logprob: None for the first token of a text.
        top: Log-probabilities of the likeliest, no two of one text; None beside a `logprob` of None.
        offset_chars: Where it begins in the answer's text.
    """

    token: TokenText
    logprob: float | None
    top: dict[TokenText, float] | None
    offset_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is new: text that may be shown, and the tokens that were scored since the last piece."""

    text: str = ""
    scored: tuple[ScoredToken, ...] = ()


@dataclass(slots=True, kw_only=True)
class Transcript:
    """The text of one answer.

    Attributes:
        decode: Token ids to text without special tokens.
        name_token: One token id to what `logprobs` shows.
        echo: The prompt's text when it is to be shown first, else None.
        num_tokens: How many the model made so far, an end token not among them.
    """

    decode: Callable[[list[int]], str]
    name_token: Callable[[int], TokenText]
    prompt_ids: Sequence[int]
    stops: Sequence[str] = ()
    echo: str | None = None
    num_tokens: int = 0
    _detokenizer: Detokenizer = field(init=False)
    _stop_matcher: StopMatcher = field(init=False)
    _num_chars: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._detokenizer = Detokenizer(self.decode, self.prompt_ids)
        self._stop_matcher = StopMatcher(self.stops)

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has matched: the rest of the answer is not wanted."""
        return self._stop_matcher.has_matched

    def opening(self) -> Piece:
        """The echoed prompt, if one is wanted and it is not scored."""
        self._num_chars += len(self.echo or "")
        return Piece(text=self.echo or "")

    def prompt(self, event: PromptScored) -> Piece:
        """The echoed prompt with its scores."""
        detokenizer, offset, scored = Detokenizer(self.decode), 0, []
        for token_id, score in zip(self.prompt_ids, (None, *event.scores), strict=True):
            scored.append(self._scored(token_id, score, offset))
            offset += len(detokenizer.push(token_id))
        return Piece(text=self.opening().text, scored=tuple(scored))

    def token(self, event: TokenMade) -> Piece:
        """What one more token adds."""
        self.num_tokens += 1
        scored = () if event.score is None else (self._scored(event.token_id, event.score, self._num_chars),)
        text = self._detokenizer.push(event.token_id)
        self._num_chars += len(text)
        return Piece(text=self._stop_matcher.push(text), scored=scored)

    def ending(self, event: Finished) -> Piece:
        """What was held back until the end, and the end token's score."""
        rest = self._detokenizer.flush()
        self._num_chars += len(rest)
        text = self._stop_matcher.push(rest) + self._stop_matcher.flush()
        if event.end is None or event.end.score is None:
            return Piece(text=text)
        return Piece(text=text, scored=(self._scored(event.end.token_id, event.end.score, self._num_chars),))

    def reason(self, reason: StopReason) -> StopReason:
        """Why the answer ended, for `finish_reason`."""
        return "stop" if self.is_stopped else reason

    def _scored(self, token_id: int, score: TokenScore | None, offset_chars: int) -> ScoredToken:
        name = self.name_token(token_id)
        if score is None:
            return ScoredToken(token=name, logprob=None, top=None, offset_chars=offset_chars)
        top: dict[TokenText, float] = {}
        for top_id, logprob in score.top:  # best first: where two tokens look alike, the likelier one stays
            top.setdefault(self.name_token(top_id), max(logprob, LOWEST_LOGPROB))
        logprob = max(score.logprob, LOWEST_LOGPROB)
        if score.top:
            top.setdefault(name, logprob)
        return ScoredToken(token=name, logprob=logprob, top=top, offset_chars=offset_chars)
