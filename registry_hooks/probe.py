"""Asks an OpenAI server for golden answers: recorded by the publisher, checked by the gateway, by the same questions.

One request per prompt: `/v1/completions` with `echo` gives the log-probability of every token of the prompt, and after
those of the first prompt a greedy continuation with the two best tokens at each place. `probe_chat` asks chats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from registry_hooks.errors import EngineError, EngineGoneError, EngineRefusedError, GoldenMismatchError
from registry_hooks.golden import GoldenItem, GoldenSet, GreedyToken

MAX_GREEDY_TOKENS = 4
TOO_LONG = "context_length_exceeded"
_NUM_LOGPROBS = 2
_MIN_PROMPT_CHARS = 2
_ANSWER_SHOWN_CHARS = 300
_A_PROMPT = "a golden prompt"
# Statuses that say: later.
_OF_THE_MOMENT = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


def client(*, uds: str | Path, base_url: str = "", timeout_s: float) -> httpx.Client:
    """A client for the OpenAI server at `base_url`, or on the Unix socket `uds` where that is empty.

    Args:
        timeout_s: Bound on connecting and on each silence.
    """
    transport = None if base_url else httpx.HTTPTransport(uds=str(uds))
    return httpx.Client(transport=transport, base_url=base_url or "http://engine", timeout=timeout_s, trust_env=False)


def observe(
    client: httpx.Client,
    prompts: Sequence[str],
    *,
    model: str,
    device: str,
    dtype: str,
    max_greedy_tokens: int = MAX_GREEDY_TOKENS,
) -> GoldenSet:
    """What the server behind `client` says of each prompt.

    Args:
        model: What the server calls the model.
        device: Of the engine, for the record: `cpu` or `cuda`.
        dtype: In which it computes, for the record.
        max_greedy_tokens: Of the first prompt's continuation. The others have none: each token costs a pass over all
            weights, and the log-probabilities of the prompts are what tells two models apart.

    Raises:
        GoldenMismatchError: A log-probability is missing or not finite.
        EngineGoneError: No answer in time or at all.
        EngineRefusedError: The prompt is answered with 4xx.
        EngineError: An answer that is no completion.
    """
    items = tuple(
        _item(client, prompt, model, max_greedy_tokens if number == 0 else 0) for number, prompt in enumerate(prompts)
    )
    return GoldenSet(items=items, device=device, dtype=dtype)


def fit(client: httpx.Client, prompt: str, *, model: str, max_greedy_tokens: int = MAX_GREEDY_TOKENS) -> str:
    """The longest of `prompt`, its first half, its first quarter and so on that the model can take.

    Only the publisher shortens: what is recorded is the shortened text, and exactly that is asked again later.

    Raises:
        EngineError: Even two characters are too long, or any error of `observe`.
    """
    while True:
        try:
            _post(client, prompt, model, max_greedy_tokens)
        except EngineRefusedError as error:
            if error.code != TOO_LONG:
                return prompt
            if len(prompt) <= _MIN_PROMPT_CHARS:
                raise EngineError(f"the model takes no prompt at all: {error}") from error
            prompt = prompt[: len(prompt) // 2]
        else:
            return prompt


def greedy_text(client: httpx.Client, prompt: str, *, model: str) -> str | None:
    """The first few tokens that a server writes after `prompt` when it always takes the likeliest; None if it cannot.

    For servers that give no log-probabilities of prompts.

    Raises:
        EngineGoneError: No answer in time or at all.
    """
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": MAX_GREEDY_TOKENS}
    try:
        return str(ask(client, "/v1/completions", body, what=_A_PROMPT)["choices"][0]["text"])
    except EngineGoneError:
        raise
    except (EngineError, KeyError, TypeError, IndexError):
        return None


def _item(client: httpx.Client, prompt: str, model: str, max_greedy_tokens: int) -> GoldenItem:
    document = _post(client, prompt, model, max_greedy_tokens)
    try:
        logprobs = document["choices"][0]["logprobs"]
        num_prompt_tokens = int(document["usage"]["prompt_tokens"])
        values = logprobs["token_logprobs"]
        greedy = zip(logprobs["tokens"], values, logprobs["top_logprobs"], strict=True)
        tokens = tuple(greedy_token(*token) for token in list(greedy)[num_prompt_tokens:])
        forced = tuple(_finite(value) for value in values[1:num_prompt_tokens])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise EngineError(f"the engine's answer to a golden prompt has no log-probabilities ({error!r})") from error
    return GoldenItem(prompt=prompt, token_logprobs=forced, greedy=tokens)


def _post(client: httpx.Client, prompt: str, model: str, max_greedy_tokens: int) -> Any:
    body = {
        "model": model,
        "prompt": prompt,
        "echo": True,
        "logprobs": _NUM_LOGPROBS,
        "temperature": 0,
        "max_tokens": max_greedy_tokens,
    }
    return ask(client, "/v1/completions", body, what=_A_PROMPT)


def ask(client: httpx.Client, path: str, body: Mapping[str, Any], *, what: str) -> Any:
    """The JSON that an engine answers a question with.

    Args:
        what: The question, for people.

    Raises:
        EngineGoneError: No answer in time or at all.
        EngineRefusedError: The question is answered with 4xx, other than for the moment's sake.
        EngineError: Another status, or no JSON.
    """
    try:
        response = client.post(path, json=body)
    except httpx.HTTPError as error:
        raise EngineGoneError(f"the engine did not answer {what} ({type(error).__name__}: {error})") from error
    status = response.status_code
    if status != httpx.codes.OK:
        message = f"the engine answered {what} with HTTP {status}: {response.text[:_ANSWER_SHOWN_CHARS]}"
        if response.is_client_error and status not in _OF_THE_MOMENT:
            raise EngineRefusedError(message, status=status, code=_error_code(response))
        raise EngineError(message)
    try:
        return response.json()
    except ValueError as error:
        raise EngineError(f"the engine answered {what} with what is no JSON ({error})") from error


def greedy_token(text: str, logprob: float | None, best: Mapping[str, float]) -> GreedyToken:
    """A token of the continuation; its gap is 0, a tie, when both of the best two have the same text."""
    chosen = _finite(logprob)
    others = [_finite(value) for other, value in best.items() if other != text]
    return GreedyToken(text=text, gap=max(0.0, chosen - max(others)) if others else 0.0)


def _finite(value: float | None) -> float:
    if value is None or not math.isfinite(value):
        raise GoldenMismatchError(
            f"the engine gave the log-probability {value} for a golden prompt: these weights do not compute"
        )
    return float(value)


def _error_code(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["code"] or "")
    except (ValueError, KeyError, TypeError):
        return ""
