"""A checkpoint's chat template as its engine applies it, without torch and transformers.

The engine is asked first: it bounds the time of a template, and what it counted is compared with what is made here.
Source: `transformers.utils.chat_template_utils`, whose environment this repeats.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from pipeline.evaluation.test_set import Turn
from registry_hooks.errors import EvaluationError, NotACheckpointError

_TEMPLATE_FILE, _CONFIG_FILE, _MAP_FILE = "chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"


class ChatText:
    """Renders chats.

    Args:
        folder: The checkpoint.

    Raises:
        NotACheckpointError: A tokenizer file cannot be read.
        EvaluationError: The template is none.
    """

    def __init__(self, folder: Path) -> None:
        config = _document(folder / _CONFIG_FILE)
        self.template = _template(folder, config)
        self._variables = _special_tokens({**_document(folder / _MAP_FILE), **config})
        self._render = _compile(self.template) if self.template else None

    def render(self, messages: Sequence[Turn]) -> str:
        """The text of a chat, ready for its answer.

        Raises:
            EvaluationError: There is no template, or it refuses the messages.
        """
        if self._render is None:
            raise EvaluationError(
                "the checkpoint has no chat template and the test set has `messages`: nothing was scored; use `prompt`",
                stage="prompts",
            )
        turns = [
            {"role": "system" if turn.role == "developer" else turn.role, "content": turn.content} for turn in messages
        ]
        try:
            return self._render(
                messages=turns, tools=None, documents=None, add_generation_prompt=True, **self._variables
            )
        except Exception as error:  # a template may raise anything
            raise EvaluationError(f"the chat template refuses the messages: {error}", stage="prompts") from error


def _compile(template: str) -> Callable[..., str]:
    # Comes with the extra `engine`, as the engine itself does: the command line starts without it.
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what a model wrote, which only training asks for."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 wants it

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = functools.partial(_to_json)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # local time, as templates mean it
    try:
        return environment.from_string(template).render
    except TemplateError as error:
        raise EvaluationError(f"the checkpoint's chat template is none: {error}", stage="prompts") from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise NotACheckpointError(f"{path} cannot be read ({error}): nothing was evaluated") from error
    return document if isinstance(document, dict) else {}


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / _TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        found = next((entry.get("template", "") for entry in found if entry.get("name") == "default"), "")
    return str(found)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    tokens = {name: config.get(name) for name in names}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
