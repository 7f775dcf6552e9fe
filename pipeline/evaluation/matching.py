"""When a text that a model wrote counts as right. Pure, and in bounded time whatever the text and the pattern."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Any

from pipeline.evaluation.items import Item

THINKING, THOUGHT = "<think>", "</think>"
# At the ends of an answer these are typography; signs, currencies and `C++` are not.
_TYPOGRAPHY = " \t\r\n.,;:!?*`\"'()[]{}<>\u2018\u2019\u201c\u201d\u00ab\u00bb\u3002\u3001\uff01\uff1f"
# A sign belongs to a number unless something stands right before it, as in `3-5`.
_NUMBER = re.compile(r"(?:(?<![\w)])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?")


def is_right(said: str, item: Item) -> bool:
    """Whether what the model wrote is one of the item's right answers, by the item's `match`.

    What a model thought first does not count, and a thought that never ended is no answer. After a plain prompt a model
    writes on and on: of its text as many lines count as the answer has, or, where the answer stands somewhere in it,
    all up to the first empty line.
    """
    text = after_thinking(said).strip()
    match item.match:
        case "exact":
            return any(_first_lines(text, wanted, item) == wanted.strip() for wanted in item.answers)
        case "text":
            return any(plain(_first_lines(text, wanted, item)) == plain(wanted) for wanted in item.answers)
        case "last_line":
            last = _paragraph(text, item).rpartition("\n")[2]
            return any(plain(last) == plain(wanted) for wanted in item.answers)
        case "number":
            last_number = numbers(_paragraph(text, item))[-1:]
            return any(last_number == numbers(wanted) for wanted in item.answers)
        case "regex":
            return found(item.pattern, _paragraph(text, item))


def after_thinking(said: str) -> str:
    """The text after `</think>`; nothing where a thought was begun and not ended."""
    if THOUGHT in said:
        return said.rpartition(THOUGHT)[2]
    return "" if THINKING in said else said


def plain(text: str) -> str:
    """A text without what is only typography: case, width, runs of spaces, and marks at its ends."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_TYPOGRAPHY) or folded


def numbers(text: str) -> list[Decimal]:
    """The numbers in a text, in their order; `1,000` is one thousand, and a point begins the decimals."""
    found: list[Decimal] = []
    for one in _NUMBER.findall(text):
        try:
            found.append(Decimal(one.replace(",", "").replace("\u2212", "-")))
        except InvalidOperation:  # no digits of one kind
            continue
    return found


def found(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text, in time that is linear in both.

    Python's own `re` may take for ever on a pattern like `(a+)+b`; RE2, which pyarrow brings along, never does.
    """
    pa, compute = _arrow()
    return bool(compute.match_substring_regex(pa.array([text]), pattern=pattern)[0].as_py())


def pattern_problem(pattern: str) -> str:
    """Why RE2 cannot use the pattern; empty when it can."""
    pa, _ = _arrow()
    try:
        found(pattern, "")
    except pa.ArrowException as error:
        return str(error).removeprefix("Invalid regular expression: ")
    return ""


def _first_lines(text: str, wanted: str, item: Item) -> str:
    if item.messages:
        return text
    return "\n".join(text.split("\n")[: wanted.strip().count("\n") + 1]).strip()


def _paragraph(text: str, item: Item) -> str:
    return text if item.messages else re.split(r"\n[ \t\r]*\n", text, maxsplit=1)[0].strip()


def _arrow() -> tuple[Any, Any]:
    # Fifty megabytes that only evaluating and promoting need.
    import pyarrow
    from pyarrow import compute

    return pyarrow, compute
