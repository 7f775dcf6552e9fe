"""What clients send: the fields of OpenAI's API that are served, and those that are refused by name.

Unknown fields are ignored, as OpenAI's clients of every age expect. A field that OpenAI knows, that changes what an
answer means and that is not served, is refused unless it has its default value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from server.engine.api_errors import InvalidRequestError, UnsupportedError

# OpenAI takes 4 stop strings; lm-evaluation-harness sends 6 for HumanEval. Each is looked for at every token.
MAX_STOPS, MAX_STOP_CHARS = 16, 1000
MAX_LOGPROBS = 20
MAX_CHOICES, MAX_PROMPTS, MAX_BIASES = 8, 64, 1024
_INT64 = 2**63

# Field → the values that change nothing.
_NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "suffix": ("",),
}
_NOT_SERVED_IN_CHAT: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    # vLLM's: an answer that was begun is to be continued. Ignored, the model would begin a new one.
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
}


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TextPart(_Wire):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Wire):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class StreamOptions(_Wire):
    """Options of a stream."""

    include_usage: bool | None = None


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class _Request(_Wire):
    """What both kinds of requests have."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=_INT64)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    logit_bias: dict[str, _Bias] | None = None
    stop: Annotated[Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_as_list)] = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(_Request):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(_Request):
    """Body of `POST /v1/completions`. A prompt is text or token ids; there may be several.

    Attributes:
        logprob_start_len: Of an echoed prompt, the first token whose log-probability is wanted; those before it get
            null, and what is known of them already is not computed again. Named as in SGLang.
    """

    prompt: Annotated[
        list[str | Annotated[list[int], Field(fail_fast=True)]], Field(min_length=1, max_length=MAX_PROMPTS)
    ]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    logprob_start_len: Annotated[int, Field(ge=0, lt=_INT64)] = 0


_AnyRequest = TypeVar("_AnyRequest", ChatRequest, CompletionRequest)
_AnyModel = TypeVar("_AnyModel", bound=BaseModel)


def parse(kind: type[_AnyRequest], document: Any) -> _AnyRequest:
    """Read a request from its JSON.

    Raises:
        InvalidRequestError: A field is missing or has a wrong type or value; says which and why.
        UnsupportedError: A field that is not served has another value than its default.
    """
    if not isinstance(document, dict):
        raise InvalidRequestError("the body must be a JSON object")
    document = {key: value for key, value in document.items() if value is not None}
    if document.get("best_of") == document.get("n", 1):  # the best of those that are returned are all of them
        document.pop("best_of", None)
    for choice, offer in (("tool_choice", "tools"), ("function_call", "functions")):
        if document.get(choice) == "none":  # what may not be called changes nothing
            document.pop(offer, None)
    if isinstance(biases := document.get("logit_bias"), dict) and len(biases) > MAX_BIASES:
        raise InvalidRequestError(f"logit_bias: at most {MAX_BIASES} tokens", param="logit_bias")
    refused = _NOT_SERVED if kind is CompletionRequest else _NOT_SERVED | _NOT_SERVED_IN_CHAT
    for name, harmless in refused.items():
        if name in document and document[name] not in harmless:
            raise UnsupportedError(f"{name} is not served by this engine: leave it out", param=name)
    if kind is CompletionRequest:
        document["prompt"] = _as_prompts(document.get("prompt"))
    return validated(kind, document)


def validated(kind: type[_AnyModel], document: Any) -> _AnyModel:
    """A body of that kind.

    Raises:
        InvalidRequestError: A field is missing or has a wrong type or value; says which and why.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _explain(error) from error


def _as_prompts(prompt: Any) -> Any:
    """One prompt is a list of one; a list of numbers is one prompt of token ids."""
    is_one = isinstance(prompt, str) or (
        isinstance(prompt, list) and not (prompt and isinstance(prompt[0], str | list))
    )
    return [prompt] if is_one else prompt


def _explain(error: ValidationError) -> InvalidRequestError:
    # Of the things that a field may be, the client meant the one whose check went deepest.
    problem = max(error.errors(include_url=False, include_input=False), key=lambda entry: len(entry["loc"]))
    # Where a field may be several things, pydantic adds the name of the one it tried: no part of the client's path.
    path = [part for part in problem["loc"] if isinstance(part, int) or (part.isidentifier() and part not in _TYPES)]
    place = ".".join(map(str, path))
    return InvalidRequestError(f"{place}: {problem['msg']}", param=place or None)


_TYPES = frozenset({"str", "int", "float", "bool", "none"})
