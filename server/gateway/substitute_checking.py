"""Golden questions for another program in the engine's place: the strictest comparison that its API allows."""

from __future__ import annotations

import httpx

from registry_hooks import golden, probe, probe_chat
from registry_hooks.errors import EngineError, EngineGoneError, EngineRefusedError, GoldenMismatchError
from registry_hooks.golden import GoldenSet, GoldenVerdict
from registry_hooks.golden_chat import GoldenChat
from server.launcher import Engine

# Statuses of a program that has no such path.
_NOT_THERE = (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED)


def prompts_of_substitute(engine: Engine, client: httpx.Client, recorded: GoldenSet) -> GoldenVerdict | None:
    """Log-probabilities of prompts where it gives them, else the text of a greedy answer, else None.

    Raises:
        GoldenMismatchError: An answer is not finite.
        EngineGoneError: It ended, or did not answer.
    """
    prompts, ready = [item.prompt for item in recorded.items], engine.ready
    try:
        seen = probe.observe(client, prompts, model=engine.model_name, device=ready.device, dtype=ready.dtype)
        return golden.compare(recorded, seen)
    except (EngineGoneError, GoldenMismatchError):
        raise
    except EngineError:  # it gives no log-probabilities of prompts
        text = probe.greedy_text(client, recorded.items[0].prompt, model=engine.model_name)
        return None if text is None else golden.compare_text(recorded, text)


def chats_of_substitute(engine: Engine, client: httpx.Client, recorded: GoldenSet) -> GoldenVerdict | None:
    """Tokens of the answers where it gives them, else their text; None where it has no chats.

    Raises:
        EngineGoneError: It ended, or did not answer.
        EngineError: It refuses a chat that was answered at publishing.
    """
    try:
        seen = [_chat(engine, client, chat) for chat in recorded.chats]
    except EngineRefusedError as error:
        if error.status in _NOT_THERE:
            return None
        raise EngineError(
            f"{error}; it was answered at publishing by Relay's own engine: look at the log of the program of "
            "engine.command"
        ) from error
    return golden.compare_chats(recorded, seen, dtype=engine.ready.dtype)


def _chat(engine: Engine, client: httpx.Client, asked: GoldenChat) -> GoldenChat:
    def observe(*, with_logprobs: bool) -> GoldenChat:
        return probe_chat.observe_chat(
            client,
            asked.messages,
            model=engine.model_name,
            max_tokens=asked.max_tokens,
            with_logprobs=with_logprobs,
        )

    try:
        return observe(with_logprobs=True)
    except EngineGoneError:
        raise
    except EngineError:  # it gives no log-probabilities of answers, or refuses to be asked for them
        return observe(with_logprobs=False)
