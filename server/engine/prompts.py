"""From what a client sent to an `Ask`: chat template, tokens, limits. No torch work, so any thread may run it."""

from __future__ import annotations

from typing import Any

from server.engine.api_errors import InvalidRequestError
from server.engine.asks import Ask, Sampling
from server.engine.loading import LoadedModel
from server.engine.wire import ChatRequest, CompletionRequest, Message

# OpenAI's own default for completions; a chat may fill what is left.
DEFAULT_COMPLETION_TOKENS = 16


def ask_of_chat(loaded: LoadedModel, request: ChatRequest) -> Ask:
    """What a chat asks of the engine.

    Raises:
        InvalidRequestError: There is no chat template, it refuses the messages, or they are too long.
    """
    prompt_ids = loaded.tokenizer(_render(loaded.tokenizer, request.messages), add_special_tokens=False).input_ids
    wanted = request.max_completion_tokens or request.max_tokens
    room = _room(loaded, prompt_ids, wanted or 0, at_least=1)
    return Ask(prompt_ids=tuple(prompt_ids), max_new_tokens=wanted or room, sampling=_sampling(request))


def ask_of_completion(loaded: LoadedModel, request: CompletionRequest) -> Ask:
    """What a completion asks of the engine.

    Raises:
        InvalidRequestError: The prompt is empty, too long, or has tokens that the model has not.
    """
    prompt_ids = request.prompt if isinstance(request.prompt, list) else loaded.tokenizer(request.prompt).input_ids
    if any(not 0 <= token_id < loaded.vocab_size for token_id in prompt_ids):
        raise InvalidRequestError(f"prompt: token ids go from 0 to {loaded.vocab_size - 1}", param="prompt")
    wanted = request.max_tokens
    room = _room(loaded, prompt_ids, wanted or 0, at_least=0 if wanted == 0 else 1)
    return Ask(
        prompt_ids=tuple(prompt_ids),
        max_new_tokens=min(DEFAULT_COMPLETION_TOKENS, room) if wanted is None else wanted,
        sampling=_sampling(request),
        num_top_logprobs=request.logprobs,
        scores_prompt=bool(request.echo) and request.logprobs is not None,
    )


def _render(tokenizer: Any, messages: list[Message]) -> str:
    if not tokenizer.chat_template:
        raise InvalidRequestError(
            "this model's tokenizer has no chat template: use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    try:
        text: str = tokenizer.apply_chat_template(
            [_turn(message) for message in messages], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program of the checkpoint's and may raise anything
        raise InvalidRequestError(
            f"the model's chat template refuses these messages: {error}", param="messages"
        ) from error
    return text


def _turn(message: Message) -> dict[str, str]:
    """A message as templates know it: they are older than the role `developer`."""
    role = "system" if message.role == "developer" else message.role
    extras = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {"role": role, "content": message.text} | {key: value for key, value in extras.items() if value is not None}


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


def _sampling(request: ChatRequest | CompletionRequest) -> Sampling:
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
    )
