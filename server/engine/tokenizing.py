"""The token ids that this engine makes of a text or a chat, and the text of ids: vLLM's `/tokenize` and `/detokenize`.

Who wants to know what the model reads asks here, and need not render and tokenize by a copy of its own.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.engine import prompts
from server.engine.api_errors import InvalidRequestError, UnsupportedError
from server.engine.loading import LoadedModel
from server.engine.wire import Message, validated

_NOT_SERVED: dict[str, tuple[Any, ...]] = {"continue_final_message": (False,), "tools": ([],), "chat_template": ()}


class TokenizeRequest(BaseModel):
    """Body of `POST /tokenize`: a prompt, or a chat.

    Attributes:
        add_special_tokens: Unset: as the engine itself does, for a prompt and not for a chat.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool = False


class DetokenizeRequest(BaseModel):
    """Body of `POST /detokenize`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]


def tokenize_request(document: Any) -> TokenizeRequest:
    """Read the body of `/tokenize`.

    Raises:
        InvalidRequestError: A field is missing or wrong, or there is not one of `prompt` and `messages`.
        UnsupportedError: A field of vLLM's that would change the ids.
    """
    given = _object(document)
    for name, harmless in _NOT_SERVED.items():
        if name in given and given[name] not in harmless:
            raise UnsupportedError(f"{name} is not served by this engine: leave it out", param=name)
    request = validated(TokenizeRequest, given)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("give either `prompt` or `messages`, one of them and not both", param="prompt")
    return request


def detokenize_request(document: Any) -> DetokenizeRequest:
    """Read the body of `/detokenize`.

    Raises:
        InvalidRequestError: `tokens` is missing or no list of ids.
    """
    return validated(DetokenizeRequest, _object(document))


def tokenized(loaded: LoadedModel, request: TokenizeRequest) -> dict[str, Any]:
    """The answer to `/tokenize`; of a chat it has the rendered text too, as `prompt`, which vLLM's has not.

    Raises:
        InvalidRequestError: There is no chat template, it refuses the messages or does not end.
    """
    if request.messages is None:
        text, special = request.prompt or "", request.add_special_tokens is not False
    else:
        variables = request.chat_template_kwargs or {}
        text = prompts.text_of_chat(loaded, request.messages, variables, opens=request.add_generation_prompt)
        special = bool(request.add_special_tokens)
    ids = loaded.tokenizer(text, add_special_tokens=special).input_ids
    names = loaded.tokenizer.convert_ids_to_tokens(ids) if request.return_token_strs else None
    answer = {"count": len(ids), "max_model_len": loaded.max_model_len_tokens, "tokens": ids, "token_strs": names}
    return answer if request.messages is None else {**answer, "prompt": text}


def detokenized(loaded: LoadedModel, request: DetokenizeRequest) -> dict[str, Any]:
    """The answer to `/detokenize`: the text, special tokens and all.

    Raises:
        InvalidRequestError: The model has no such token.
    """
    if any(not 0 <= token_id < loaded.vocab_size for token_id in request.tokens):
        raise InvalidRequestError(f"tokens: ids go from 0 to {loaded.vocab_size - 1}", param="tokens")
    text = loaded.tokenizer.decode(request.tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return {"prompt": text}


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidRequestError("the body must be a JSON object")
    return {key: value for key, value in document.items() if value is not None}
