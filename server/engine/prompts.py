"""From what a client sent to an `Ask`: chat template, tokens, limits. No torch work, so any thread may run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.engine import rendering
from server.engine.api_errors import InvalidRequestError
from server.engine.asks import Ask, Sampling
from server.engine.loading import LoadedModel
from server.engine.wire import MAX_PROMPTS, ChatRequest, CompletionRequest, Message

# OpenAI's own default for completions; a chat may fill what is left.
DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One answer that a client wants; `echo` is the prompt's text when it is to be shown first."""

    ask: Ask
    echo: str | None = None


def wanted_by_chat(loaded: LoadedModel, request: ChatRequest) -> list[Wanted]:
    """The answers that a chat asks of the engine: `n` of them.

    Raises:
        InvalidRequestError: There is no chat template, it refuses the messages or does not end, they are too long or
            hold a token that the model has not, or fields contradict each other.
    """
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    text = text_of_chat(loaded, request.messages, request.chat_template_kwargs or {})
    prompt_ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    _check_ids(loaded, prompt_ids, param="messages")
    wanted = request.max_completion_tokens or request.max_tokens
    room = _room(loaded, prompt_ids, wanted or 0, at_least=1)
    return [
        Wanted(
            ask=Ask(
                prompt_ids=tuple(prompt_ids),
                max_new_tokens=wanted or room,
                sampling=sampling,
                num_top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
                stop_ids=_stop_ids(loaded, request),
            )
        )
        for sampling in _samplings(loaded, request)
    ]


def text_of_chat(
    loaded: LoadedModel, messages: Sequence[Message], variables: dict[str, Any], *, opens: bool = True
) -> str:
    """A chat by the model's template, whose tokens are the prompt; `opens` says whether an answer follows.

    Raises:
        InvalidRequestError: There is no chat template, it refuses the messages or does not end.
    """
    return rendering.render(loaded.tokenizer, [_turn(message) for message in messages], variables, opens=opens)


def wanted_by_completion(loaded: LoadedModel, request: CompletionRequest) -> list[Wanted]:
    """The answers that a completion asks of the engine: `n` for each prompt, in the order of the prompts.

    Raises:
        InvalidRequestError: A prompt is empty, too long, or has tokens that the model has not; too many answers.
    """
    samplings = _samplings(loaded, request)
    if len(samplings) * len(request.prompt) > MAX_PROMPTS:
        raise InvalidRequestError(f"at most {MAX_PROMPTS} answers a request: prompts times n", param="n")
    return [wanted for prompt in request.prompt for wanted in _of_prompt(loaded, request, prompt, samplings)]


def _of_prompt(
    loaded: LoadedModel, request: CompletionRequest, prompt: str | list[int], samplings: list[Sampling]
) -> list[Wanted]:
    prompt_ids = loaded.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
    _check_ids(loaded, prompt_ids, param="prompt")
    wanted = request.max_tokens
    room = _room(loaded, prompt_ids, wanted or 0, at_least=0 if wanted == 0 else 1)
    echo = None
    if request.echo:
        echo = prompt if isinstance(prompt, str) else loaded.decode(prompt_ids)
    return [
        Wanted(
            ask=Ask(
                prompt_ids=tuple(prompt_ids),
                max_new_tokens=min(DEFAULT_COMPLETION_TOKENS, room) if wanted is None else wanted,
                sampling=sampling,
                num_top_logprobs=request.logprobs,
                scores_from=max(1, request.logprob_start_len)
                if request.echo and request.logprobs is not None
                else None,
                scores_end=request.logprobs is not None,
                stop_ids=_stop_ids(loaded, request),
            ),
            echo=echo,
        )
        for sampling in samplings
    ]


def _turn(message: Message) -> dict[str, str]:
    """A message as templates know it: they are older than the role `developer`."""
    role = "system" if message.role == "developer" else message.role
    extras = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {"role": role, "content": message.text} | {key: value for key, value in extras.items() if value is not None}


def _check_ids(loaded: LoadedModel, prompt_ids: list[int], *, param: str) -> None:
    """A tokenizer may have tokens that the model has no embedding for, such as those of pictures."""
    odd = next((token_id for token_id in prompt_ids if not 0 <= token_id < loaded.vocab_size), None)
    if odd is not None:
        raise InvalidRequestError(
            f"{param}: it holds the token {odd}, and this model's token ids go from 0 to {loaded.vocab_size - 1}",
            param=param,
        )


def _stop_ids(loaded: LoadedModel, request: ChatRequest | CompletionRequest) -> frozenset[int]:
    """Stop strings that are special tokens: no text shows them, so they end an answer as they are made."""
    ids = (loaded.token_texts.special_id(stop) for stop in request.stop or ())
    return frozenset(token_id for token_id in ids if token_id is not None)


def _room(loaded: LoadedModel, prompt_ids: list[int], num_wanted: int, *, at_least: int) -> int:
    """How many tokens an answer may have; refuses an empty prompt and one that leaves less than what is wanted."""
    if not prompt_ids:
        raise InvalidRequestError("the prompt has no tokens", param="prompt")
    room = loaded.max_model_len_tokens - len(prompt_ids)
    if room < max(num_wanted, at_least):
        raise InvalidRequestError(
            f"the model's longest text is {loaded.max_model_len_tokens} tokens: the prompt has {len(prompt_ids)} and "
            f"{max(num_wanted, at_least)} more were asked for; shorten the prompt or lower max_tokens",
            code="context_length_exceeded",
            param="max_tokens" if room > 0 else None,
        )
    return room


def _samplings(loaded: LoadedModel, request: ChatRequest | CompletionRequest) -> list[Sampling]:
    """How each of the `n` answers to a prompt is chosen."""
    base = Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        logit_bias=_biases(loaded, request.logit_bias or {}),
        seed=request.seed,
    )
    return [replace(base, choice=choice) for choice in range(request.n or 1)]


def _biases(loaded: LoadedModel, biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for token in biases:
        if not (token.isascii() and token.isdecimal() and int(token) < loaded.vocab_size):
            raise InvalidRequestError(
                f"logit_bias: {token!r} is no token id; they go from 0 to {loaded.vocab_size - 1}", param="logit_bias"
            )
    return tuple((int(token), bias) for token, bias in biases.items())
