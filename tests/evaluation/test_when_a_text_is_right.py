"""What a chat model writes around its answer does not make it wrong, where the test set says so."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.evaluation import matching, scorers
from pipeline.evaluation.items import Item, Turn
from pipeline.evaluation.scorers import Likelihood, Said
from pipeline.evaluation.tokens import chat_of

CHAT: dict[str, Any] = {"prompt": None, "messages": (Turn(role="user", content="?"),)}


def item_of(**changes: Any) -> Item:
    fields: dict[str, Any] = {"item_id": "q", "slice": "all", "prompt": "?", "messages": (), "answer": "Paris"}
    return Item(**fields | changes)


@pytest.mark.parametrize(
    ("said", "answer", "is_right"),
    [
        ("**Paris**.", "paris", True),
        ("  PARIS!\n", "Paris", True),
        ("\u201cParis\u201d", "Paris", True),
        ("\uff30aris", "Paris", True),
        ("the  answer\nis", "The answer is", True),
        ("Paris, France", "Paris", False),
        ("", "Paris", False),
        ("-5", "5", False),
        ("C", "C++", False),
        ("?", "?", True),
        ("!", "?", False),
    ],
)
def test_text_ignores_what_is_only_typography(said: str, answer: str, is_right: bool) -> None:
    assert matching.is_right(said, item_of(**CHAT, match="text", answer=answer)) is is_right


@pytest.mark.parametrize(
    ("said", "answer", "is_right"),
    [
        ("1,000", "1000", True),
        ("It is 3, so 2 + 3 = **5**.", "5", True),
        ("$1,234.50", "1234.5", True),
        ("x = -5", "\u22125", True),
        ("it goes 3-5", "5", True),
        ("1e3", "1000", True),
        ("5, or else 6", "5", False),
        ("five", "5", False),
        ("1,0000", "1", False),
        ("1e999999999999", "1", False),
    ],
)
def test_number_takes_the_last_number_by_its_value(said: str, answer: str, is_right: bool) -> None:
    assert matching.is_right(said, item_of(**CHAT, match="number", answer=answer)) is is_right


@pytest.mark.parametrize(
    ("said", "is_right"), [("Let me see.\n\nParis.", True), ("Paris\nis nice", False), ("Paris\n\n", True), ("", False)]
)
def test_last_line_takes_the_last_line_with_text(said: str, is_right: bool) -> None:
    assert matching.is_right(said, item_of(**CHAT, match="last_line")) is is_right


@pytest.mark.parametrize(("said", "is_right"), [("It is Paris, sir", True), ("It is paris", False), ("", False)])
def test_regex_is_looked_for_anywhere(said: str, is_right: bool) -> None:
    assert matching.is_right(said, item_of(**CHAT, match="regex", pattern=r"\bParis\b")) is is_right


def test_a_pattern_that_would_take_pythons_own_re_for_ever_ends() -> None:
    item = item_of(**CHAT, match="regex", pattern="(a+)+b", answer="ab")

    assert not matching.is_right("a" * 50_000, item)


@pytest.mark.parametrize("match", ["exact", "text", "number", "last_line"])
def test_any_of_several_answers_is_right(match: Any) -> None:
    item = item_of(**CHAT, match=match, answer="7", others=("8", "9"))

    assert [matching.is_right(said, item) for said in "6789"] == [False, True, True, True]


@pytest.mark.parametrize("match", ["exact", "text", "number", "last_line", "regex"])
@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("<think></think>5", True),
        ("<think>\n6?\n</think>\n\n5", True),
        ("6? </think> 5", True),
        ("<think>5", False),
        ("<think>5</think>", False),
    ],
)
def test_what_a_model_thought_does_not_count(match: Any, said: str, is_right: bool) -> None:
    pattern = "5" if match == "regex" else ""

    assert matching.is_right(said, item_of(**CHAT, match=match, answer="5", pattern=pattern)) is is_right


def test_a_thought_that_the_template_begins_and_the_model_does_not_end_is_no_answer() -> None:
    said = Said(text="6, no: 5", num_prompt_tokens=1)

    assert scorers.begun("<assistant><think>\n", said).text == "<think>6, no: 5"
    assert scorers.begun("<assistant>", said) == said
    assert scorers.begun(None, said) == said


@pytest.mark.parametrize("match", ["number", "last_line", "regex"])
def test_after_a_plain_prompt_what_follows_an_empty_line_is_another_text(match: Any) -> None:
    item = item_of(match=match, answer="5", pattern="5$" if match == "regex" else "")

    assert matching.is_right("\n2+3 is\n5\n\nQuestion: what is 7?\n7", item)
    assert not matching.is_right("no\n\n5", item)


@pytest.mark.parametrize(
    ("changes", "max_tokens"),
    [
        ({}, 3 + 8),
        ({"match": "text"}, 3 + 8),
        ({"others": ("Paris, the capital",)}, 3 + 13 + 8),
        ({"match": "number"}, 256),
        ({"match": "exact", "max_tokens": 2000}, 2000),
        ({"choices": ("Paris", "Rome"), "gold": 0}, 1),
    ],
)
def test_there_is_room_for_what_the_model_writes(changes: dict[str, Any], max_tokens: int) -> None:
    assert scorers.greedy(item_of(**changes), 3).body["max_tokens"] == max_tokens


def test_variables_go_to_the_template_where_it_is_answered_and_where_it_is_tokenized() -> None:
    item = item_of(**CHAT, template={"enable_thinking": False})

    assert chat_of(item)["chat_template_kwargs"] == {"enable_thinking": False}
    assert scorers.greedy(item, 1).body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in scorers.greedy(item_of(**CHAT), 1).body


@pytest.mark.parametrize(("choice_score", "chosen"), [("sum", "1"), ("token", "0"), ("byte", "2")])
def test_long_choices_are_weighed_as_the_set_says(choice_score: Any, chosen: str) -> None:
    item = item_of(choices=("a b c d", "e", "f" * 40), gold=0, choice_score=choice_score)
    found = [
        Likelihood(logprob=-8.0, num_tokens=8),
        Likelihood(logprob=-6.0, num_tokens=1),
        Likelihood(logprob=-9.0, num_tokens=4),
    ]

    assert scorers.score(item, Said(text="", num_prompt_tokens=1), found).said == chosen


def test_the_group_of_an_item_goes_with_its_score() -> None:
    result = scorers.score(
        item_of(group="g"), Said(text="", num_prompt_tokens=1), [Likelihood(logprob=-1, num_tokens=1)]
    )

    assert result.group == "g"
