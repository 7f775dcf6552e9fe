"""The fixed test set: JSON lines in, checked items out, and one digest that says whether two sets are the same.

A line is `{"id": …, "prompt": … or "messages": …, "answer": …, "choices": …, "slice": …}`. With `choices`, `answer` is
the place of the right one, counted from 0; without, it is the text that the model should write. Prompt and answer are
put together as they stand: an answer that follows a word begins with its space. A first line `{"set": {…}}` says what
holds for all lines that do not say it themselves. docs/promotion.md has the whole format.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.evaluation import test_set_lines as lines
from pipeline.evaluation.items import Item
from registry_hooks.errors import TestSetError

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ITEMS = 100_000


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
        """Observations of each slice, by name."""
        found = {(item.slice, _observation(item)) for item in self.items}
        return dict(sorted(Counter(name for name, _ in found).items()))

    @property
    def num_observations(self) -> int:
        """Items, those of one group counted once."""
        return len({_observation(item) for item in self.items})


def load(path: Path) -> TestSet:
    """Read a test set; whoever gets one can rely on every item.

    Raises:
        TestSetError: The file cannot be read, is too large or empty, or a line is wrong; names line and field.
    """
    numbered = [(number, line) for number, line in enumerate(_read(path).split(b"\n"), 1) if line.strip()]
    header = lines.NO_HEADER
    if numbered:
        number, first = numbered[0]
        found = lines.header(first, f"{path}, line {number}")
        header, numbered = (header, numbered) if found is None else (found, numbered[1:])
    if not numbered:
        raise TestSetError(f"{path} has no items: nothing was evaluated; a test set needs at least one line")
    if len(numbered) > MAX_ITEMS:
        raise TestSetError(f"{path} has {len(numbered)} items, at most {MAX_ITEMS} are taken: nothing was evaluated")
    seen = _Seen()
    items: list[Item] = []
    for number, line in numbered:
        where = f"{path}, line {number}"
        item = lines.item(line, where, header)
        seen.add(item, number, where)
        items.append(item)
    return build(items, name=path.stem, source=str(path))


def build(items: Sequence[Item], *, name: str, source: str = "") -> TestSet:
    """A test set of items that were checked."""
    texts = (json.dumps(item.canonical(), sort_keys=True) for item in sorted(items, key=lambda item: item.item_id))
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    return TestSet(name=name, source=source, items=tuple(items), digest=digest)


def _observation(item: Item) -> tuple[str, str]:
    return ("group", item.group) if item.group else ("item", item.item_id)


class _Seen:
    """The ids and questions of the lines so far."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._questions: dict[tuple[object, ...], Item] = {}

    def add(self, item: Item, number: int, where: str) -> None:
        """Refuse an id that stands there already, and a question that does: two copies are no more evidence than one.

        Raises:
            TestSetError: It does; a question may come again in one `group`.
        """
        if item.item_id in self._lines:
            raise lines.wrong(where, "id", f"{item.item_id!r} stands in line {self._lines[item.item_id]} too")
        self._lines[item.item_id] = number
        twin = self._questions.setdefault(item.question, item)
        if twin is not item and not (item.group and item.group == twin.group):
            raise lines.wrong(
                where,
                "prompt" if item.messages == () else "messages",
                f"item {item.item_id!r} asks the same as item {twin.item_id!r} in line {self._lines[twin.item_id]}; "
                "two copies are no more evidence than one; drop one of them, or give both one `group`",
            )


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
