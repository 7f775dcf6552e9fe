"""The token loop for one request, for models whose cache cannot be batched, and the scoring of tokens for all.

Shapes: B = 1 batch, T tokens of a chunk, V vocabulary, K alternatives. Tokens are those of `model.generate` with greedy
search; what it lacks is a place to stop between two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from server.engine.asks import Ask, Event, Failed, Finished, PromptScored, TokenMade, TokenScore
from server.engine.loading import LoadedModel
from server.engine.rope_border import border_of
from server.engine.sampling import Sampler

# A prompt is read in pieces so that a client that went away is noticed in between.
PREFILL_CHUNK_TOKENS = 512
# Logits of all places are wanted to score a prompt: 16 M floats are 64 MB, whatever the vocabulary.
MAX_LOGITS_OF_CHUNK = 16 * 1024 * 1024
MIN_CHUNK_TOKENS = 16


def generate(loaded: LoadedModel, ask: Ask) -> Iterator[list[Event]]:
    """Answer `ask`: after each forward pass, the events that came of it. The last is `Finished`.

    Raises:
        FloatingPointError: Logits are not finite.
    """
    forward = _Forward(loaded)
    sampler = Sampler(ask.sampling, ask.prompt_ids)
    if ask.scores_from is not None:
        logits_V = yield from _read_scoring(forward, ask)
    else:
        logits_V = yield from _read(forward, ask)
    for num_left in reversed(range(ask.max_new_tokens)):
        token = sampler.pick(logits_V)
        score = None if ask.num_top_logprobs is None else score_tokens(logits_V[None], [token], ask.num_top_logprobs)[0]
        made = TokenMade(token_id=token, score=score)
        if token in loaded.eos_ids or token in ask.stop_ids:
            yield [Finished(reason="stop", end=made if ask.scores_end else None)]
            return
        yield [made]
        if num_left:
            logits_V = forward([token], last_only=True)[-1]
    yield [Finished(reason="length")]


Generate = Callable[[LoadedModel, Ask], Iterator[list[Event]]]
"""Answers one request, the events of each step at a time."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Alone:
    """The request that runs."""

    steps: Iterator[list[Event]]
    events: list[Event] = field(default_factory=list)


class OneAtATime:
    """Runs one request after the other, with transformers' own cache."""

    num_rows = 1
    num_places = num_stored_tokens = 0

    def __init__(self, loaded: LoadedModel, *, generate: Generate = generate, because: str = "") -> None:
        """Ready for the first request; `because` says why there is no batch."""
        self.because = because
        self._loaded = loaded
        self._generate = generate
        self._running: _Alone | None = None

    def has_room(self, _: Ask) -> bool:
        """Whether no request runs."""
        return self._running is None

    def join(self, ask: Ask) -> _Alone:
        """Begin a request; none may be running."""
        self._running = _Alone(steps=self._generate(self._loaded, ask))
        return self._running

    def leave(self, running: object) -> None:
        """End the request. Safe to call twice."""
        if running is self._running:
            self._running = None

    def step(self) -> list[_Alone]:
        """One forward pass; the request with its new events."""
        running = self._running
        if running is None:
            return []
        try:
            running.events = next(running.steps)
        except Exception as error:  # noqa: BLE001 - one failing request must not end the engine
            running.events = [Failed(because=f"the model failed on this request ({type(error).__name__}: {error})")]
        return [running]

    def drop_all(self) -> list[_Alone]:
        """End the request, after a step that failed."""
        dropped, self._running = self._running, None
        return [dropped] if dropped else []


class _Forward:
    """Forward passes of one sequence, each over the tokens that follow the last."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._border = border_of(loaded.model.config.get_text_config())
        self._ids: list[int] = []
        self._cache = DynamicCache(config=loaded.model.config)

    @torch.inference_mode()
    def __call__(self, ids: list[int], *, last_only: bool) -> torch.Tensor:
        """Raw logits in float32, one row per token of `ids` or only the last.

        A text that grows over the border of its rotary frequencies is read anew from its beginning, as by `generate`.
        """
        num_before, num_wanted = len(self._ids), 1 if last_only else len(ids)
        self._ids += ids
        if self._border is not None and 0 < num_before <= self._border < len(self._ids):
            self._cache = DynamicCache(config=self.loaded.model.config)
            ids = self._ids
        keep = {"logits_to_keep": num_wanted} if self.loaded.keeps_logits else {}
        ids_BT = torch.tensor([ids], device=self.loaded.device)
        output = self.loaded.model(input_ids=ids_BT, past_key_values=self._cache, use_cache=True, **keep)
        logits_TV: torch.Tensor = output.logits[0, -num_wanted:]
        return logits_TV.float()

    def num_read_as_one(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens of a prompt over the border one pass must see, so that all are computed alike."""
        return self._border + 1 if self._border is not None and len(prompt_ids) > self._border else 0

    @torch.inference_mode()
    def some_logits(self, ids: Sequence[int], start: int, end: int) -> torch.Tensor:
        """Of one pass over all of `ids`, of which nothing is kept, the logits of some; slow, and no memory for all."""
        ids_BT = torch.tensor([list(ids)], device=self.loaded.device)
        kept_N = torch.arange(start, end, device=self.loaded.device)
        keep = {"logits_to_keep": kept_N} if self.loaded.keeps_logits else {}
        logits_TV: torch.Tensor = self.loaded.model(input_ids=ids_BT, use_cache=False, **keep).logits[0]
        return (logits_TV if keep else logits_TV[kept_N]).float()


def _read(forward: _Forward, ask: Ask) -> Generator[list[Event], None, torch.Tensor]:
    """Read the prompt; the logits after its last token."""
    for chunk in _chunks(ask.prompt_ids, PREFILL_CHUNK_TOKENS):
        logits_V = forward(chunk, last_only=True)[-1]
        yield []
    return logits_V


def _read_scoring(forward: _Forward, ask: Ask) -> Generator[list[Event], None, torch.Tensor]:
    """Read the prompt and report what the model thought of each of its tokens; the logits after the last."""
    room = MAX_LOGITS_OF_CHUNK // forward.loaded.vocab_size
    size = max(MIN_CHUNK_TOKENS, min(room, PREFILL_CHUNK_TOKENS))
    num_as_one = forward.num_read_as_one(ask.prompt_ids)
    scores: list[TokenScore] = []

    def score(logits_TV: torch.Tensor) -> None:
        following = ask.prompt_ids[len(scores) + 1 : len(scores) + 1 + len(logits_TV)]
        scores.extend(score_tokens(logits_TV[: len(following)], following, ask.num_top_logprobs or 0))

    for start in range(0, num_as_one, size):
        score(forward.some_logits(ask.prompt_ids[:num_as_one], start, min(start + size, num_as_one)))
        yield []
    if num_as_one:
        logits_TV = forward(list(ask.prompt_ids[:num_as_one]), last_only=True)
    for chunk in _chunks(ask.prompt_ids[num_as_one:], size):
        logits_TV = forward(chunk, last_only=False)
        score(logits_TV)
        yield []
    num_unscored = min(len(scores), (ask.scores_from or 1) - 1)
    yield [PromptScored(scores=(*[None] * num_unscored, *scores[num_unscored:]))]
    return logits_TV[-1]


def _chunks(ids: tuple[int, ...], size: int) -> Iterator[list[int]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])


@torch.inference_mode()
def score_tokens(logits_TV: torch.Tensor, ids: tuple[int, ...] | list[int], num_top: int) -> list[TokenScore]:
    """Log-probabilities of `ids`, one per row, and of the `num_top` likeliest tokens of each row.

    Raises:
        FloatingPointError: A row holds NaN or positive infinity.
    """
    if not ids:
        return []
    logprobs_TV = torch.log_softmax(logits_TV.float(), dim=-1)
    ids_T = torch.tensor(ids, device=logprobs_TV.device)
    chosen = logprobs_TV.gather(1, ids_T[:, None])[:, 0].tolist()
    if any(value != value for value in chosen):
        raise FloatingPointError("the model's logits are not finite at this place")
    if not num_top:
        return [TokenScore(logprob=value, top=()) for value in chosen]
    top_TK, top_ids_TK = logprobs_TV.topk(min(num_top, logprobs_TV.shape[1]), dim=-1)
    return [
        TokenScore(logprob=value, top=tuple(zip(ids_K, top_K, strict=True)))
        for value, ids_K, top_K in zip(chosen, top_ids_TK.tolist(), top_TK.tolist(), strict=True)
    ]
