"""A chat template is a program that came with the checkpoint: it gets a bounded time, makes no giants, and
has no say over how it is run.
"""

from __future__ import annotations

import ctypes
import inspect as signatures
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers.utils import chat_template_utils

from server.engine.api_errors import InvalidRequestError
from server.engine.template_sandbox import BoundedEnvironment

# Templates take milliseconds. One that loops shares the interpreter with everybody's streams for so long.
MAX_RENDER_S = 1.0
_SHOWN_CHARS = 300
_A_WORD = "harbour"

# The name by which transformers makes the sandbox of a template.
chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment


def render(tokenizer: Any, turns: list[dict[str, str]], variables: dict[str, Any], *, opens: bool = True) -> str:
    """The text of a chat; `variables` are what the client has for the template, `opens` makes it ready for an answer.

    Raises:
        InvalidRequestError: There is no template, it refuses the turns, fails, takes too much, or a variable is none.
    """
    if not tokenizer.chat_template:
        raise InvalidRequestError(
            "this model's tokenizer has no chat template: use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    own = sorted(set(variables) & set(signatures.signature(tokenizer.apply_chat_template).parameters))
    if own:  # another template, for one, would be a program of the client's
        raise InvalidRequestError(
            f"chat_template_kwargs: {own[0]} is not the client's to say; leave it out", param="chat_template_kwargs"
        )
    shown = [turn | {"content": _parts(turn["content"])} for turn in turns] if _wants_parts(tokenizer) else turns
    try:
        return within(MAX_RENDER_S, lambda: _rendered(tokenizer, shown, add_generation_prompt=opens, **variables))
    except TimeUpError as error:
        raise InvalidRequestError(
            f"the model's chat template did not end within {MAX_RENDER_S} s on these messages", param="messages"
        ) from error
    except Exception as error:  # a template may raise anything
        # By `raise_exception` a template says no, by a plain TemplateError; all else is a fault of its own.
        code = "refused_by_template" if type(error) is TemplateError else None
        raise InvalidRequestError(
            f"the model's chat template refuses these messages: {str(error)[:_SHOWN_CHARS]}",
            param="messages",
            code=code,
        ) from error


@lru_cache(maxsize=1)
def _wants_parts(tokenizer: Any) -> bool:
    """Whether the template shows a message only where its content is a list of parts, as that of Llama Guard 3 does.

    Of a text it would show nothing, and say so to nobody.
    """
    return not _shows(tokenizer, _A_WORD) and _shows(tokenizer, _parts(_A_WORD))


def _shows(tokenizer: Any, content: Any) -> bool:
    try:
        return _A_WORD in within(MAX_RENDER_S, lambda: _rendered(tokenizer, [{"role": "user", "content": content}]))
    except Exception:  # noqa: BLE001 - a template may raise anything
        return False


def _parts(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}]


def _rendered(tokenizer: Any, turns: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **variables))


class TimeUpError(Exception):
    """A call took longer than it may."""


def within(limit_s: float, call: Callable[[], str]) -> str:
    """What `call` returns. It is stopped at its next Python instruction after `limit_s`.

    Raises:
        TimeUpError: It took longer.
    """
    alarm = _Alarm()
    timer = threading.Timer(limit_s, alarm.ring)
    timer.daemon = True
    try:
        timer.start()  # in here, as the alarm may ring before this returns
        try:
            text = call()
        except Exception:  # `_Ring` is none
            alarm.silence()
            raise
        alarm.silence()
        return text
    except _Ring as error:
        raise TimeUpError from error
    finally:
        timer.cancel()


class _Ring(BaseException):
    """Raised in the middle of the call; no `except Exception` of a template's helpers swallows it."""


class _Alarm:
    """Raises `_Ring` once in the thread that made it, unless it was silenced before."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._is_silent = False
        self._has_rung = False

    def ring(self) -> None:
        with self._lock:
            if not self._is_silent:
                self._is_silent = self._has_rung = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Ring))

    def silence(self) -> None:
        """From now on it cannot ring; one that is under way lands in here."""
        with self._lock:
            self._is_silent = True
        while self._has_rung:
            time.sleep(0.001)
