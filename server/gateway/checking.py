"""What an engine is asked before any user asks it: the golden questions, and one answer on the path that users take."""

from __future__ import annotations

import httpx

from registry_hooks import golden, probe
from registry_hooks.errors import DeclinedError, EngineError, EngineGoneError, GoldenMismatchError
from registry_hooks.golden import GoldenSet, GoldenVerdict
from server.launcher import Engine

PROBE_TIMEOUT_S = 120.0
_UNATTESTED_PROMPT = "The quick brown fox jumps over the lazy dog."


def check_golden(engine: Engine, recorded: GoldenSet | None, *, required: bool) -> str:
    """Ask the engine the golden questions before any user does; the verdict as a sentence.

    A version without golden answers is asked one prompt, whose answer must be finite. Another program in the engine's
    place is asked what its API allows: log-probabilities of prompts, else the text of a greedy answer, else nothing.

    Raises:
        GoldenMismatchError: Other answers than recorded, or not finite ones.
        DeclinedError: None are recorded, or none to be had, although `required`.
        EngineGoneError: The engine ended, or did not answer.
    """
    if recorded is None and required:
        raise DeclinedError(
            "it has no golden answers and serve.require_golden of this box is on; publish it with `relay publish`"
        )
    with engine.client(PROBE_TIMEOUT_S) as client:
        if engine.spec.command:
            verdict = _ask_substitute(engine, client, recorded)
            if verdict is None:
                return _unchecked(engine, required=required)
        elif recorded is None:
            _observe(engine, client, [_UNATTESTED_PROMPT])
            return "no golden answers recorded; one prompt scored, finite"
        else:
            verdict = golden.compare(recorded, _observe(engine, client, [item.prompt for item in recorded.items]))
    if not verdict.passed:
        raise GoldenMismatchError(verdict.because)
    return verdict.because


def warm_up(engine: Engine) -> None:
    """Make the engine generate once on the path that users take.

    Raises:
        EngineError: It does not generate.
    """
    chat = {"model": engine.model_name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    plain = {"model": engine.model_name, "prompt": "Hello", "max_tokens": 4}
    try:
        with engine.client(PROBE_TIMEOUT_S) as client:
            answer = client.post("/v1/chat/completions", json=chat)
            if answer.status_code != httpx.codes.OK:  # no chat template: a base model
                answer = client.post("/v1/completions", json=plain)
    except httpx.HTTPError as error:
        raise EngineGoneError(f"the engine did not answer the warm-up ({error!r}){engine.last_words()}") from error
    if answer.status_code != httpx.codes.OK:
        raise EngineError(f"the engine cannot generate: status {answer.status_code}, {answer.text[:300]}")


def _observe(engine: Engine, client: httpx.Client, prompts: list[str]) -> GoldenSet:
    ready = engine.ready
    return probe.observe(client, prompts, model=engine.model_name, device=ready.device, dtype=ready.dtype)


def _ask_substitute(engine: Engine, client: httpx.Client, recorded: GoldenSet | None) -> GoldenVerdict | None:
    """The strictest comparison that its API allows; None when it allows none."""
    if recorded is None:
        return None
    try:
        return golden.compare(recorded, _observe(engine, client, [item.prompt for item in recorded.items]))
    except (EngineGoneError, GoldenMismatchError):
        raise
    except EngineError:  # it gives no log-probabilities of prompts
        text = probe.greedy_text(client, recorded.items[0].prompt, model=engine.model_name)
        return None if text is None else golden.compare_text(recorded, text)


def _unchecked(engine: Engine, *, required: bool) -> str:
    because = "golden answers could not be checked: the program of engine.command gives neither log-probabilities "
    because += "of prompts nor greedy completions to compare with"
    if required:
        raise DeclinedError(f"{because}, and serve.require_golden of this box is on")
    return because
