"""One line of a test set: JSON in, a checked item out, or an error that names line and field."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.evaluation import matching
from pipeline.evaluation.items import ChoiceScore, Item, Match, Turn
from registry_hooks.errors import TestSetError

MAX_CHOICES = 64
MAX_ANSWERS = 64
MAX_ID_CHARS = 200
MAX_PATTERN_CHARS = 1000
MAX_ANSWER_TOKENS = 65_536
# Of a metric's name in MLflow: no slash, since that is what stands between metric and slice.
SLICE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,99}$"
WHOLE = "all"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Header(_Strict):
    """What holds for all items that do not say it themselves."""

    match: Match | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)] | None = None
    template: dict[str, Any] | None = None
    choice_score: ChoiceScore | None = None


NO_HEADER = Header()

_Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class _Line(Header):
    id: _Id | int
    prompt: str | None = None
    messages: Annotated[list[_Message], Field(min_length=1, max_length=256)] | None = None
    answer: str | int | None = None
    answers: Annotated[list[str], Field(min_length=1, max_length=MAX_ANSWERS)] | None = None
    pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS)] | None = None
    choices: Annotated[list[str], Field(min_length=2, max_length=MAX_CHOICES)] | None = None
    slice: Annotated[str, Field(pattern=SLICE_PATTERN)] = WHOLE
    group: _Id | int | None = None


_FIELDS = {*_Line.model_fields, *_Message.model_fields}
_Kind = TypeVar("_Kind", bound=BaseModel)


def header(line: bytes, where: str) -> Header | None:
    """What `{"set": {…}}` says; None for a line that is an item.

    Raises:
        TestSetError: A field in it is wrong.
    """
    document = _json(line, where)
    if not isinstance(document, dict) or set(document) != {"set"}:
        return None
    return _parsed(Header, document["set"], where)


def item(line: bytes, where: str, shared: Header) -> Item:
    """The item of a line.

    Args:
        shared: What holds where the line does not say it.

    Raises:
        TestSetError: The line is no item; names line and field.
    """
    parsed = _parsed(_Line, _json(line, where), where)
    for problem in (_unclear_question(parsed), _unclear_answer(parsed)):
        if problem:
            raise wrong(where, *problem)
    found = _item_of(parsed, shared)
    if problem := _never_right(found):
        raise wrong(where, *problem)
    return found


def wrong(where: str, field: str, why: str) -> TestSetError:
    """The error of a line."""
    return TestSetError(f"{where}, field {field}: {why}; nothing was evaluated")


def _item_of(line: _Line, shared: Header) -> Item:
    has_choices, is_chat = line.choices is not None, line.messages is not None
    texts = line.answers or [str(line.answer)]
    gold = line.answer if has_choices and isinstance(line.answer, int) else None
    choices = tuple(line.choices or ())
    return Item(
        item_id=str(line.id),
        slice=line.slice,
        prompt=line.prompt,
        messages=tuple(Turn(role=one.role, content=one.content) for one in line.messages or ()),
        answer=texts[0] if gold is None else choices[gold],
        others=() if gold is not None else tuple(texts[1:]),
        choices=choices,
        gold=gold,
        match="exact" if has_choices else line.match or shared.match or "exact",
        pattern=line.pattern or "",
        max_tokens=None if has_choices else line.max_tokens or shared.max_tokens,
        template=_either(line.template, shared.template) if is_chat else {},
        choice_score=(line.choice_score or shared.choice_score or "sum") if has_choices else "sum",
        group="" if line.group is None else str(line.group),
    )


def _either(own: dict[str, Any] | None, shared: dict[str, Any] | None) -> dict[str, Any]:
    return own if own is not None else shared or {}


def _unclear_question(line: _Line) -> tuple[str, str] | None:
    """The field that does not go with the others, and why."""
    if (line.prompt is None) == (line.messages is None):
        return "prompt", "an item has either `prompt` or `messages`, one of them and not both"
    if line.prompt is not None and not line.prompt.strip():
        return "prompt", "it has no text"
    if line.prompt is not None and line.template is not None:
        return "template", "a plain `prompt` has no chat template: use `messages`"
    text_only = {"match": line.match, "pattern": line.pattern, "max_tokens": line.max_tokens, "answers": line.answers}
    if line.choices is not None and (odd := next((key for key, value in text_only.items() if value), None)):
        return odd, "it is for texts that the model writes, and this item has `choices`"
    if line.choices is None and line.choice_score is not None:
        return "choice_score", "this item has no `choices`"
    return None


def _unclear_answer(line: _Line) -> tuple[str, str] | None:
    if line.answer is None and line.answers is None:
        return "answer", "required: a string, or `answers` with a list of strings, or the number of the right choice"
    if line.answer is not None and line.answers is not None:
        return "answers", "an item has either `answer` or `answers`, one of them and not both"
    if line.choices is None:
        if isinstance(line.answer, int):
            return "answer", "without `choices` it is the text that the model should write; put it in quotes"
        if not all(text.strip() for text in line.answers or [str(line.answer)]):
            return "answers" if line.answers else "answer", "it has no text"
        return None
    if not isinstance(line.answer, int):
        return "answer", "with `choices` it is the number of the right choice, counted from 0"
    if not 0 <= line.answer < len(line.choices):
        return "answer", f"there is no choice {line.answer}: they go from 0 to {len(line.choices) - 1}"
    if not all(choice.strip() for choice in line.choices) or len(set(line.choices)) < len(line.choices):
        return "choices", "each needs a text of its own"
    return None


def _never_right(item: Item) -> tuple[str, str] | None:
    """The field because of which even the right answer would not count, and why."""
    if bool(item.pattern) != (item.match == "regex"):
        return "pattern", "`match: regex` needs one, and nothing else has a use for it"
    if item.match == "number" and any(len(matching.numbers(text)) != 1 for text in item.answers):
        return "answer", "with `match: number` it is one number, such as 1000, 1,000 or -2.5"
    if item.match == "last_line" and any("\n" in text.strip() for text in item.answers):
        return "answer", "with `match: last_line` it is one line"
    if item.match != "regex":
        return None
    if problem := matching.pattern_problem(item.pattern):
        return "pattern", f"it cannot be used ({problem}); the syntax is RE2's, which has no lookaround"
    if not all(matching.found(item.pattern, text) for text in item.answers):
        return "pattern", "it is not found in the item's own answer"
    return None


def _json(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TestSetError(f"{where} is not JSON ({error}): nothing was evaluated") from error


def _parsed(kind: type[_Kind], document: Any, where: str) -> _Kind:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise wrong(where, *_first_problem(error, kind)) from error


def _first_problem(error: ValidationError, kind: type[BaseModel]) -> tuple[str, str]:
    # Of the things that a field may be, the user meant the one whose check went deepest.
    problem = max(error.errors(include_url=False, include_input=False), key=lambda entry: len(entry["loc"]))
    names = [str(part) for part in problem["loc"] if str(part) in _FIELDS or isinstance(part, int)]
    if problem["type"] == "extra_forbidden":
        return str(problem["loc"][-1]), f"unknown; the fields are {', '.join(_in_order(kind))}"
    return ".".join(names) or "the line", problem["msg"]


def _in_order(kind: type[BaseModel]) -> list[str]:
    own = [name for name in kind.model_fields if name not in Header.model_fields]
    return [*own, *Header.model_fields]
