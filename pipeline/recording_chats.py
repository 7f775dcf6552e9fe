"""Records golden chats with an engine of ours: a checkpoint whose template fails is refused before it is a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from registry_hooks import probe, probe_chat
from registry_hooks.errors import EngineRefusedError, NotACheckpointError
from registry_hooks.golden_chat import GoldenChat

# One message of a user: the only chat that nearly every template takes.
DEFAULT_CHATS = ("Say hello in one short sentence.",)
# Templates that ask for the date are made of one of these.
_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json")
_ASKS_FOR_THE_DATE = b"strftime_now"
_MAX_TEMPLATE_BYTES = 16 * 1024 * 1024


def record_chats(
    client: httpx.Client, folder: Path, texts: Sequence[str], *, model: str
) -> tuple[tuple[GoldenChat, ...], str]:
    """What the engine behind `client` makes of chats that begin with one message of a user.

    Args:
        folder: The files that it loaded.
        texts: Empty for a general one.

    Returns:
        The chats, without those that are too long for the model; and, where there are none, why: there is no chat
        template, it refuses the general chat, or the model is too short for a chat.

    Raises:
        NotACheckpointError: The template fails on a chat, or refuses one of `texts`.
        EngineError: The engine ended, hung, or answered something else.
    """
    is_dated = _is_dated(folder)
    chats: list[GoldenChat] = []
    for text in texts or DEFAULT_CHATS:
        try:
            chats.append(_record(client, text, model=model, is_dated=is_dated))
        except EngineRefusedError as error:
            if error.code == probe_chat.NO_TEMPLATE:
                return (), "the tokenizer has no chat template"
            if error.code == probe_chat.REFUSED and not texts:
                return (), f"the chat template does not take a lone message of a user ({error})"
            if error.code != probe.TOO_LONG:
                raise NotACheckpointError(
                    f"nobody could chat with this checkpoint: {error}; no version was made. Mend its chat template, or "
                    "remove it (chat_template.jinja, or chat_template in tokenizer_config.json) to publish the model "
                    "for completions only; for a template that takes certain messages alone, name one in "
                    "publish.golden_chats"
                ) from error
    return tuple(chats), "" if chats else "a chat is longer than the model's longest text"


def _record(client: httpx.Client, text: str, *, model: str, is_dated: bool) -> GoldenChat:
    max_tokens = probe_chat.MAX_ANSWER_TOKENS
    while True:
        try:
            chat = probe_chat.observe_chat(
                client, (("user", text),), model=model, max_tokens=max_tokens, is_dated=is_dated
            )
        except EngineRefusedError as error:
            if error.code != probe.TOO_LONG or max_tokens == 1:
                raise
            max_tokens //= 2
        else:
            return replace(chat, end_gap=probe_chat.end_gap(client, chat, model=model))


def _is_dated(folder: Path) -> bool:
    """Whether a template may ask what day it is."""
    for name in _TEMPLATE_FILES:
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                if _ASKS_FOR_THE_DATE in file.read(_MAX_TEMPLATE_BYTES):
                    return True
    return False
