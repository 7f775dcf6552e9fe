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
NONE = {"id": "n", "prompt": "2+1="}
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
        ({**GOOD, "answers": ["2"]}, "answers", "not both"),
        ({**NONE, "answers": []}, "answers", "at least 1"),
        ({**NONE, "answers": ["2", " "]}, "answers", "no text"),
        ({**NONE, "answers": ["2", 3]}, "answers.1", "string"),
        ({**GOOD, "match": "fuzzy"}, "match", "'exact', 'text'"),
        ({**GOOD, "match": "regex"}, "pattern", "needs one"),
        ({**GOOD, "pattern": "2"}, "pattern", "needs one"),
        ({**GOOD, "match": "regex", "pattern": "(2"}, "pattern", "missing )"),
        ({**GOOD, "match": "regex", "pattern": "(?=2)"}, "pattern", "no lookaround"),
        ({**GOOD, "match": "regex", "pattern": "3"}, "pattern", "own answer"),
        ({**GOOD, "match": "regex", "pattern": "2" * 1001}, "pattern", "at most 1000"),
        ({**GOOD, "match": "number", "answer": "two"}, "answer", "one number"),
        ({**GOOD, "match": "number", "answer": "1 or 2"}, "answer", "one number"),
        ({**GOOD, "match": "last_line", "answer": "a\nb"}, "answer", "one line"),
        ({**GOOD, "max_tokens": 0}, "max_tokens", "greater than"),
        ({**GOOD, "template": {"enable_thinking": False}}, "template", "use `messages`"),
        ({**CHOICES, "match": "text"}, "match", "has `choices`"),
        ({**CHOICES, "max_tokens": 5}, "max_tokens", "has `choices`"),
        ({**GOOD, "choice_score": "token"}, "choice_score", "no `choices`"),
        ({**CHOICES, "choice_score": "mean"}, "choice_score", "'sum', 'token'"),
        ({**GOOD, "set": {}}, "set", "the fields are id, prompt"),
        ({**GOOD, "group": ""}, "group", "at least 1"),
        ({**GOOD, "prompt": "2+2="}, "prompt", "asks the same as item 'good' in line 1"),
        ({**CHAT, "prompt": None, "messages": None}, "prompt", "either"),
        ({**GOOD, "anwser": "2"}, "anwser", "the fields are id, prompt"),
        ([1, 2], "the line", "dictionary"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(write: Callable[..., Path], line: Any, field: str, why: str) -> None:
    path = write({**GOOD, "id": "good", "prompt": "2+2="}, line)

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
    lines = [{**GOOD, "id": f"item {number}", "prompt": f"{number}+1="} for number in range(9)]
    digest = test_sets.load(write(*lines)).digest
    random.Random(0).shuffle(lines)
    turned = [dict(reversed(line.items())) for line in lines]

    assert test_sets.load(write(*turned, name="other.jsonl")).digest == digest


@pytest.mark.parametrize("change", [{"answer": "3"}, {"prompt": "2+1="}, {"slice": "sums"}, {"id": "z"}])
def test_the_digest_changes_with_everything_that_matters(write: Callable[..., Path], change: dict[str, str]) -> None:
    before = test_sets.load(write(GOOD)).digest

    assert test_sets.load(write(GOOD | change)).digest != before


def test_the_digest_of_a_set_without_what_is_new_stays_what_it_was(write: Callable[..., Path]) -> None:
    found = test_sets.load(write(GOOD, CHOICES, CHAT))

    assert found.digest == "0d7fe531eeb16ada3574a7661823e54cfa3b0708b5ca89c9d481580961954b79"


@pytest.mark.parametrize(
    "more",
    [
        {"match": "text"},
        {"match": "number"},
        {"match": "last_line"},
        {"match": "regex", "pattern": "2"},
        {"max_tokens": 5},
        {"group": "g"},
        {"answer": None, "answers": ["2", "two"]},
    ],
)
def test_how_an_answer_is_judged_is_in_the_digest(write: Callable[..., Path], more: dict[str, Any]) -> None:
    before = test_sets.load(write(GOOD)).digest

    assert test_sets.load(write({**GOOD, **more})).digest != before


def test_a_first_line_says_what_holds_for_all_that_do_not_say_it_themselves(write: Callable[..., Path]) -> None:
    shared = {"match": "text", "max_tokens": 512, "template": {"enable_thinking": False}, "choice_score": "byte"}
    own = {**CHAT, "id": "own", "messages": [{"role": "user", "content": "?"}], "match": "exact", "template": {}}
    plain, choices, chat, other = test_sets.load(write({"set": shared}, GOOD, CHOICES, CHAT, own)).items

    assert (plain.match, plain.max_tokens, plain.template, plain.choice_score) == ("text", 512, {}, "sum")
    assert (choices.match, choices.max_tokens, choices.template, choices.choice_score) == ("exact", None, {}, "byte")
    assert (chat.match, chat.max_tokens, chat.template) == ("text", 512, {"enable_thinking": False})
    assert (other.match, other.max_tokens, other.template) == ("exact", 512, {})


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ({"mach": "text"}, "mach"),
        ({"match": "fuzzy"}, "match"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"template": "enable_thinking"}, "template"),
        ("text", "the line"),
    ],
)
def test_a_wrong_first_line_is_named_with_its_field(write: Callable[..., Path], header: Any, field: str) -> None:
    with pytest.raises(TestSetError, match=f"line 1, field {field}:"):
        test_sets.load(write({"set": header}, GOOD))


def test_a_set_of_a_first_line_alone_is_empty(write: Callable[..., Path]) -> None:
    with pytest.raises(TestSetError, match="no items"):
        test_sets.load(write({"set": {"match": "text"}}))


def test_a_question_may_come_again_in_one_group_or_with_other_choices(write: Callable[..., Path]) -> None:
    twins = [{**GOOD, "id": name, "group": 3} for name in "ab"]
    other = {**CHOICES, "id": "other", "choices": ["2", "3"], "answer": 0}
    found = test_sets.load(write(*twins, CHOICES | {"id": "c"}, other))

    assert [item.group for item in found.items] == ["3", "3", "", ""]
    with pytest.raises(TestSetError, match="item 'b' asks the same as item 'a' in line 1"):
        test_sets.load(write(twins[0], {**twins[1], "group": 4}))
