"""Asks an OpenAI server a golden chat, on the path that users take: the template, the answer to its end, the reason."""

from __future__ import annotations

from typing import Any

import httpx

from registry_hooks import probe
from registry_hooks.errors import EngineError, EngineGoneError
from registry_hooks.golden_chat import STOP, GoldenChat, GreedyToken

# The template is there and works, and says that it does not take such messages.
NO_TEMPLATE, REFUSED = "no_chat_template", "refused_by_template"
# Long enough for the end of a short answer, which is what is looked for; each token costs a pass over all weights.
MAX_ANSWER_TOKENS = 32
_A_CHAT = "a golden chat"


def observe_chat(
    client: httpx.Client,
    messages: tuple[tuple[str, str], ...],
    *,
    model: str,
    max_tokens: int = MAX_ANSWER_TOKENS,
    is_dated: bool = False,
    with_logprobs: bool = True,
) -> GoldenChat:
    """What the server behind `client` makes of a chat; nobody asked yet how sure its end is.

    Args:
        messages: Role and content of each.
        max_tokens: Bound on the answer.
        with_logprobs: Off for programs that give none.

    Raises:
        EngineGoneError: No answer in time or at all.
        EngineRefusedError: The chat is answered with 4xx: there is no template, it fails, or the chat is too long.
        EngineError: An answer that is no chat.
    """
    said = [{"role": role, "content": content} for role, content in messages]
    body = {"model": model, "messages": said, "temperature": 0, "max_tokens": max_tokens}
    scores = {"logprobs": True, "top_logprobs": 2} if with_logprobs else {}
    document = probe.ask(client, "/v1/chat/completions", body | scores, what=_A_CHAT)
    try:
        choice = document["choices"][0]
        text, reason = str(choice["message"]["content"] or ""), str(choice["finish_reason"])
        tokens = tuple(map(_token, choice["logprobs"]["content"])) if with_logprobs else ()
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise EngineError(f"the engine's answer to {_A_CHAT} is no chat with log-probabilities ({error!r})") from error
    return GoldenChat(
        messages=messages,
        prompt_ids=_prompt_ids(client, said, model=model),
        is_dated=is_dated,
        max_tokens=max_tokens,
        text=text,
        tokens=tokens,
        finish_reason=reason,
    )


def end_gap(client: httpx.Client, chat: GoldenChat, *, model: str) -> float:
    """How much likelier the end was than going on, in nats; 0 where the answer had none, or nobody can say.

    Chats do not show their end token. The same tokens as a completion do, on an engine of ours.

    Raises:
        EngineError: The engine ended, or answers something else.
    """
    if chat.finish_reason != STOP or chat.prompt_ids is None:
        return 0.0
    body = {"model": model, "prompt": list(chat.prompt_ids), "temperature": 0, "logprobs": 2}
    document = probe.ask(client, "/v1/completions", body | {"max_tokens": len(chat.tokens) + 1}, what=_A_CHAT)
    try:
        scores = document["choices"][0]["logprobs"]
        ended = list(zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise EngineError(f"the engine's answer to {_A_CHAT} has no log-probabilities ({error!r})") from error
    if len(ended) != len(chat.tokens) + 1:
        return 0.0
    return probe.greedy_token(*ended[-1]).gap


def _token(scored: dict[str, Any]) -> GreedyToken:
    best = {one["token"]: one["logprob"] for one in scored["top_logprobs"]}
    return probe.greedy_token(scored["token"], scored["logprob"], best)


def _prompt_ids(client: httpx.Client, said: list[dict[str, str]], *, model: str) -> tuple[int, ...] | None:
    """What the template makes of it, where the server says: `/tokenize`, as vLLM has it."""
    try:
        document = probe.ask(client, "/tokenize", {"model": model, "messages": said}, what=_A_CHAT)
        return tuple(int(token_id) for token_id in document["tokens"])
    except EngineGoneError:
        raise
    except (EngineError, ValueError, KeyError, TypeError):
        return None
