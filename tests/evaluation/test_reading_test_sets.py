"""A test set is read whole and right, or refused with the line and the field that are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import test_set as test_sets
from registry_hooks.errors import TestSetError

GOOD = {"id": "a", "prompt": "1+1=", "answer": "2"}
CHOICES = {"id": "b", "prompt": "1+1=", "choices": ["1", "2"], "answer": 1, "slice": "sums"}
CHAT = {"id": 7, "messages": [{"role": "user", "content": "hi"}], "answer": "hello", "slice": "chat"}


def test_every_kind_of_item_is_read(write: Callable[..., Path]) -> None:
    found = test_sets.load(write(GOOD, "", CHOICES, CHAT))

    first, second, third = found.items
    assert (first.slice, first.prompt, first.answer, first.gold) == ("all", "1+1=", "2", None)
    assert (second.choices, second.gold, second.answer) == (("1", "2"), 1, "2")
    assert (third.item_id, third.prompt, third.messages[0].content) == ("7", None, "hi")
    assert (found.name, dict(found.slices)) == ("held-out", {"all": 1, "chat": 1, "sums": 1})


@pytest.mark.parametrize(
    ("line", "field", "why"),
    [
        ({**GOOD, "id": "good"}, "id", "line 1 too"),
        ({"prompt": "x", "answer": "y"}, "id", "required"),
        ({**GOOD, "id": ""}, "id", "at least 1"),
        ({**GOOD, "id": "x" * 201}, "id", "at most 200"),
        ({**GOOD, "messages": CHAT["messages"]}, "prompt", "not both"),
        ({"id": "a", "answer": "2"}, "prompt", "either"),
        ({**GOOD, "prompt": " \n"}, "prompt", "no text"),
        ({**GOOD, "prompt": 5}, "prompt", "string"),
        ({"id": "a", "prompt": "x"}, "answer", "required"),
        ({**GOOD, "answer": " "}, "answer", "no text"),
        ({**GOOD, "answer": 2}, "answer", "quotes"),
        ({**GOOD, "answer": None}, "answer", "string"),
        ({**CHOICES, "answer": "2"}, "answer", "number of the right choice"),
        ({**CHOICES, "answer": True}, "answer", "valid"),
        ({**CHOICES, "answer": 2}, "answer", "from 0 to 1"),
        ({**CHOICES, "answer": -1}, "answer", "from 0 to 1"),
        ({**CHOICES, "choices": ["1"]}, "choices", "at least 2"),
        ({**CHOICES, "choices": ["1", "1"]}, "choices", "of its own"),
        ({**CHOICES, "choices": ["1", " "]}, "choices", "of its own"),
        ({**CHOICES, "choices": ["1", 2]}, "choices.1", "string"),
        ({**CHOICES, "choices": [str(n) for n in range(65)]}, "choices", "at most 64"),
        ({**CHAT, "messages": []}, "messages", "at least 1"),
        ({**CHAT, "messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role", "user"),
        ({**CHAT, "messages": [{"role": "user"}]}, "messages.0.content", "required"),
        ({**GOOD, "slice": "a/b"}, "slice", "pattern"),
        ({**GOOD, "slice": "größe"}, "slice", "pattern"),
        ({**GOOD, "anwser": "2"}, "anwser", "the fields are id, prompt"),
        ([1, 2], "the line", "dictionary"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(write: Callable[..., Path], line: Any, field: str, why: str) -> None:
    path = write({**GOOD, "id": "good"}, line)

    with pytest.raises(TestSetError) as refused:
        test_sets.load(path)

    assert f"line 2, field {field}:" in str(refused.value)
    assert why in str(refused.value)
    assert "nothing was evaluated" in str(refused.value)


@pytest.mark.parametrize("line", ['{"id": "a", ', "[" * 100_000, "text"])
def test_a_line_that_is_no_json_is_named(write: Callable[..., Path], line: str) -> None:
    with pytest.raises(TestSetError, match="line 1 is not JSON"):
        test_sets.load(write(line))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"id": "\xff"}')

    with pytest.raises(TestSetError, match="line 1 is not JSON"):
        test_sets.load(path)


def test_an_empty_set_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(TestSetError, match="no items"):
        test_sets.load(write("", "  "))


def test_a_file_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TestSetError, match="No such file"):
        test_sets.load(tmp_path / "none.jsonl")


def test_a_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TestSetError, match="directory"):
        test_sets.load(tmp_path)


def test_what_is_too_large_is_refused_before_it_is_read(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(GOOD, CHOICES)
    monkeypatch.setattr(test_sets, "MAX_ITEMS", 1)
    with pytest.raises(TestSetError, match="2 items, at most 1"):
        test_sets.load(path)

    monkeypatch.setattr(test_sets, "MAX_FILE_BYTES", 10)
    with pytest.raises(TestSetError, match="more than 0 MiB"):
        test_sets.load(path)


def test_the_digest_is_the_same_in_any_order_and_however_the_json_is_written(write: Callable[..., Path]) -> None:
    lines = [{**GOOD, "id": f"item {number}"} for number in range(9)]
    digest = test_sets.load(write(*lines)).digest
    random.Random(0).shuffle(lines)
    turned = [dict(reversed(line.items())) for line in lines]

    assert test_sets.load(write(*turned, name="other.jsonl")).digest == digest


@pytest.mark.parametrize("change", [{"answer": "3"}, {"prompt": "2+1="}, {"slice": "sums"}, {"id": "z"}])
def test_the_digest_changes_with_everything_that_matters(write: Callable[..., Path], change: dict[str, str]) -> None:
    before = test_sets.load(write(GOOD)).digest

    assert test_sets.load(write(GOOD | change)).digest != before
