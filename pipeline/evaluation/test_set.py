"""The fixed test set: JSON lines in, checked items out, and one digest that says whether two sets are the same.

A line is `{"id": …, "prompt": … or "messages": …, "answer": …, "choices": …, "slice": …}`. With `choices`, `answer` is
the place of the right one, counted from 0; without, it is the text that the model should write. Prompt and answer are
put together as they stand: an answer that follows a word begins with its space.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry_hooks.errors import TestSetError

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ITEMS = 100_000
MAX_CHOICES = 64
MAX_ID_CHARS = 200
# Of a metric's name in MLflow: no slash, since that is what stands between metric and slice.
SLICE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,99}$"
WHOLE = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question with its right answer.

    Attributes:
        prompt: Plain text; None where there are messages.
        messages: A chat; empty where there is a prompt.
        answer: The text that should come, or that of the right choice.
        choices: What to choose from; empty for a text that the model writes.
        gold: Place of the right choice, from 0; None without choices.
    """

    item_id: str
    slice: str
    prompt: str | None
    messages: tuple[Turn, ...]
    answer: str
    choices: tuple[str, ...] = ()
    gold: int | None = None

    def canonical(self) -> dict[str, Any]:
        """The item as the digest sees it."""
        chat = [[turn.role, turn.content] for turn in self.messages]
        return {
            "id": self.item_id,
            "slice": self.slice,
            "prompt": self.prompt,
            "messages": chat,
            "answer": self.answer if self.gold is None else self.gold,
            "choices": list(self.choices),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSet:
    """Items that do not change.

    Attributes:
        name: What people call it: the file's name without its ending.
        source: Where it was read from.
        digest: sha256 over the items, whatever their order.
    """

    __test__: ClassVar[bool] = False  # to pytest, a class of this name is a test

    name: str
    source: str
    items: tuple[Item, ...]
    digest: str

    @property
    def slices(self) -> Mapping[str, int]:
        """Number of items of each slice, by name."""
        return dict(sorted(Counter(item.slice for item in self.items).items()))


def load(path: Path) -> TestSet:
    """Read a test set; whoever gets one can rely on every item.

    Raises:
        TestSetError: The file cannot be read, is too large or empty, or a line is wrong; names line and field.
    """
    numbered = [(number, line) for number, line in enumerate(_read(path).split(b"\n"), 1) if line.strip()]
    if not numbered:
        raise TestSetError(f"{path} has no items: nothing was evaluated; a test set needs at least one line")
    if len(numbered) > MAX_ITEMS:
        raise TestSetError(f"{path} has {len(numbered)} items, at most {MAX_ITEMS} are taken: nothing was evaluated")
    items: list[Item] = []
    places: dict[str, int] = {}
    for number, line in numbered:
        item = _item(line, f"{path}, line {number}")
        if item.item_id in places:
            raise _wrong(f"{path}, line {number}", "id", f"{item.item_id!r} stands in line {places[item.item_id]} too")
        places[item.item_id] = number
        items.append(item)
    return build(items, name=path.stem, source=str(path))


def build(items: Sequence[Item], *, name: str, source: str = "") -> TestSet:
    """A test set of items that were checked."""
    lines = (json.dumps(item.canonical(), sort_keys=True) for item in sorted(items, key=lambda item: item.item_id))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return TestSet(name=name, source=source, items=tuple(items), digest=digest)


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)] | int
    prompt: str | None = None
    messages: Annotated[list[_Message], Field(min_length=1, max_length=256)] | None = None
    answer: str | int
    choices: Annotated[list[str], Field(min_length=2, max_length=MAX_CHOICES)] | None = None
    slice: Annotated[str, Field(pattern=SLICE_PATTERN)] = WHOLE


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TestSetError(f"test set {path} cannot be read: {error.strerror}; nothing was evaluated") from error
    if len(data) > MAX_FILE_BYTES:
        raise TestSetError(
            f"test set {path} has more than {MAX_FILE_BYTES // 1024**2} MiB: nothing was evaluated; take fewer items"
        )
    return data


def _item(line: bytes, where: str) -> Item:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TestSetError(f"{where} is not JSON ({error}): nothing was evaluated") from error
    try:
        parsed = _Line.model_validate(document)
    except ValidationError as error:
        field, why = _first_problem(error)
        raise _wrong(where, field, why) from error
    contradiction = _contradiction(parsed)
    if contradiction:
        raise _wrong(where, *contradiction)
    choices, gold = tuple(parsed.choices or ()), parsed.answer if isinstance(parsed.answer, int) else None
    return Item(
        item_id=str(parsed.id),
        slice=parsed.slice,
        prompt=parsed.prompt,
        messages=tuple(Turn(role=one.role, content=one.content) for one in parsed.messages or ()),
        answer=choices[gold] if gold is not None else str(parsed.answer),
        choices=choices,
        gold=gold,
    )


def _contradiction(line: _Line) -> tuple[str, str] | None:
    """The field that does not go with the others, and why."""
    if (line.prompt is None) == (line.messages is None):
        return "prompt", "an item has either `prompt` or `messages`, one of them and not both"
    if line.prompt is not None and not line.prompt.strip():
        return "prompt", "it has no text"
    if line.choices is None:
        if isinstance(line.answer, int):
            return "answer", "without `choices` it is the text that the model should write; put it in quotes"
        return ("answer", "it has no text") if not line.answer.strip() else None
    if not isinstance(line.answer, int):
        return "answer", "with `choices` it is the number of the right choice, counted from 0"
    if not 0 <= line.answer < len(line.choices):
        return "answer", f"there is no choice {line.answer}: they go from 0 to {len(line.choices) - 1}"
    if not all(choice.strip() for choice in line.choices) or len(set(line.choices)) < len(line.choices):
        return "choices", "each needs a text of its own"
    return None


def _first_problem(error: ValidationError) -> tuple[str, str]:
    # Of the things that a field may be, the user meant the one whose check went deepest.
    problem = max(error.errors(include_url=False, include_input=False), key=lambda entry: len(entry["loc"]))
    names = [str(part) for part in problem["loc"] if str(part) in _FIELDS or isinstance(part, int)]
    if problem["type"] == "extra_forbidden":
        return str(problem["loc"][-1]), f"unknown; the fields are {', '.join(_Line.model_fields)}"
    return ".".join(names) or "the line", problem["msg"]


_FIELDS = {*_Line.model_fields, *_Message.model_fields}


def _wrong(where: str, field: str, why: str) -> TestSetError:
    return TestSetError(f"{where}, field {field}: {why}; nothing was evaluated")
