"""What an engine is asked before any user asks it: the golden prompts and chats, and one answer on users' path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx

from registry_hooks import golden, probe, probe_chat
from registry_hooks.errors import (
    DeclinedError,
    EngineGoneError,
    EngineRefusedError,
    GoldenMismatchError,
    StartCancelledError,
)
from registry_hooks.golden import GoldenSet, GoldenVerdict
from registry_hooks.golden_chat import GoldenChat
from server.gateway.substitute_checking import chats_of_substitute, prompts_of_substitute
from server.launcher import Engine

PROBE_TIMEOUT_S = 120.0
# Of all golden questions together: how many there are, whoever published the version says.
CHECK_S = 600.0
_UNATTESTED_PROMPT = "The quick brown fox jumps over the lazy dog."
_WARM_UP_TOKENS = 4
_WARM_UP_CHAT = (("user", "Hello"),)
# Why a good version may not answer a chat that we made up: a template may, for one, want a system prompt.
_NO_FAULTS = (probe_chat.NO_TEMPLATE, probe_chat.REFUSED, probe.TOO_LONG)


def check_golden(
    engine: Engine, recorded: GoldenSet | None, *, required: bool, cancelled: Callable[[], bool] = lambda: False
) -> str:
    """Ask the engine the golden questions before any user does; the verdict as a sentence.

    A version without golden answers is asked one prompt, whose answer must be finite. Another program in the engine's
    place is asked what its API allows: log-probabilities of prompts, else the text of a greedy answer, else nothing.

    Args:
        required: Whether it may not be served unseen.
        cancelled: Asked before each question.

    Raises:
        GoldenMismatchError: Other answers than recorded, 4xx to what was answered at publishing, or not finite ones.
        DeclinedError: None are recorded, or none to be had, although `required`; this box takes shorter texts only; or
            it computes in another way than others by its settings, and comes to other answers.
        EngineGoneError: The engine ended, or did not answer, or not all within `CHECK_S`.
        StartCancelledError: `cancelled` said so.
        EngineError: Another program in its place refuses what was answered at publishing.
    """
    try:
        return _checked(engine, recorded, required=required, cancelled=cancelled)
    except GoldenMismatchError as error:
        if own_way := _own_way(engine, recorded):
            raise DeclinedError(f"{error}; {own_way}, so nothing is held against the version") from error
        raise


def _own_way(engine: Engine, recorded: GoldenSet | None) -> str:
    """What the settings of this box have it do otherwise than the engine that recorded; empty for nothing."""
    if engine.spec.command:
        return "these are the answers of the program of engine.command"
    if recorded is not None and engine.spec.dtype not in ("auto", recorded.dtype):
        return f"engine.dtype of this box is {engine.spec.dtype}, they were recorded in {recorded.dtype}"
    return ""


def _checked(engine: Engine, recorded: GoldenSet | None, *, required: bool, cancelled: Callable[[], bool]) -> str:
    if recorded is None and required:
        raise DeclinedError(
            "it has no golden answers and serve.require_golden of this box is on; publish it with `relay publish`"
        )
    with _bounded_client(engine, cancelled) as client:
        if recorded is None:
            if not engine.spec.command:
                _prompts(engine, client, [_UNATTESTED_PROMPT])
            return "no golden answers recorded" + ("" if engine.spec.command else "; one prompt scored, finite")
        if engine.spec.command:
            prompts = prompts_of_substitute(engine, client, recorded)
            chats = chats_of_substitute(engine, client, recorded)
        else:
            prompts = golden.compare(recorded, _prompts(engine, client, [item.prompt for item in recorded.items]))
            chats = golden.compare_chats(recorded, _chats(engine, client, recorded), dtype=engine.ready.dtype)
    may_pass_unseen = not required or (chats is not None and bool(recorded.chats))
    return _joined(prompts, chats, may_pass_unseen=may_pass_unseen)


def _bounded_client(engine: Engine, cancelled: Callable[[], bool]) -> httpx.Client:
    """One that begins no further question once time is up, or nobody wants the engine any more."""
    deadline = time.monotonic() + CHECK_S

    def look_up(_: httpx.Request) -> None:
        if cancelled():
            raise StartCancelledError("the version is no longer wanted; its golden check was given up")
        if time.monotonic() > deadline:
            raise EngineGoneError(f"the engine did not answer all golden questions within {CHECK_S:g} s")

    client = engine.client(PROBE_TIMEOUT_S)
    client.event_hooks["request"].append(look_up)
    return client


def warm_up(engine: Engine, recorded: GoldenSet | None = None) -> None:
    """Make the engine generate once on the path that users take.

    Args:
        recorded: Its first chat is one that the template takes.

    Raises:
        GoldenMismatchError: The template fails on a plain chat.
        EngineError: It does not generate.
    """
    messages = recorded.chats[0].messages if recorded is not None and recorded.chats else _WARM_UP_CHAT
    said = [{"role": role, "content": content} for role, content in messages]
    body = {"model": engine.model_name, "max_tokens": _WARM_UP_TOKENS}
    try:
        with engine.client(PROBE_TIMEOUT_S) as client:
            try:
                probe.ask(client, "/v1/chat/completions", body | {"messages": said}, what="the warm-up")
            except EngineRefusedError as error:
                if not engine.spec.command and error.code not in _NO_FAULTS:
                    raise GoldenMismatchError(f"nobody could chat with it: {error}") from error
                probe.ask(client, "/v1/completions", body | {"prompt": "Hello"}, what="the warm-up")  # a base model
    except EngineGoneError as error:
        raise EngineGoneError(f"{error}{engine.last_words()}") from error


def _prompts(engine: Engine, client: httpx.Client, prompts: Sequence[str]) -> GoldenSet:
    ready = engine.ready
    with _blamed(engine):
        return probe.observe(client, prompts, model=engine.model_name, device=ready.device, dtype=ready.dtype)


def _chats(engine: Engine, client: httpx.Client, recorded: GoldenSet) -> list[GoldenChat]:
    with _blamed(engine):
        return [
            probe_chat.observe_chat(client, chat.messages, model=engine.model_name, max_tokens=chat.max_tokens)
            for chat in recorded.chats
        ]


@contextmanager
def _blamed(engine: Engine) -> Iterator[None]:
    """A refusal of what was answered at publishing is the version's fault, but for a limit that this box set."""
    try:
        yield
    except EngineRefusedError as error:
        if error.code == probe.TOO_LONG and engine.spec.max_model_len_tokens:
            raise DeclinedError(
                f"{error}; engine.max_model_len_tokens of this server is {engine.spec.max_model_len_tokens}: raise it"
            ) from error
        raise GoldenMismatchError(f"golden answers differ: {error}") from error


def _joined(prompts: GoldenVerdict | None, chats: GoldenVerdict | None, *, may_pass_unseen: bool) -> str:
    """One sentence of all verdicts; None is one that could not be had, from another program alone.

    Args:
        may_pass_unseen: Whether prompts need not be compared.

    Raises:
        GoldenMismatchError: One did not pass.
        DeclinedError: One could not be had although it had to.
    """
    for verdict in (prompts, chats):
        if verdict is not None and not verdict.passed:
            raise GoldenMismatchError(verdict.because)
    if prompts is None:
        because = "golden answers could not be checked: the program of engine.command gives neither log-probabilities "
        because += "of prompts nor greedy completions to compare with"
        if not may_pass_unseen:
            raise DeclinedError(f"{because}, and serve.require_golden of this box is on")
    else:
        because = prompts.because
    return because + ("; chats could not be checked" if chats is None else f"; {chats.because}")
