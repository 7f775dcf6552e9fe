"""Golden chats: what two engines must agree on, and what near-ties, dates and other programs excuse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from registry_hooks import golden, golden_chat
from registry_hooks.errors import ManifestError
from registry_hooks.golden import GoldenItem, GoldenSet
from registry_hooks.golden_chat import GoldenChat, GreedyToken

NEAR_TIE = 0.5


def tokens(*texts: str, gap: float = 9.0) -> tuple[GreedyToken, ...]:
    return tuple(GreedyToken(text=text, gap=gap) for text in texts)


def a_chat(**changes: Any) -> GoldenChat:
    """Three sure tokens and a sure end."""
    whole = GoldenChat(
        messages=(("user", "Hello"),),
        prompt_ids=(1, 7, 2),
        is_dated=False,
        max_tokens=8,
        text="Good day!",
        tokens=tokens("Good", " day", "!"),
        finish_reason="stop",
        end_gap=9.0,
    )
    return replace(whole, **changes)


def difference(recorded: GoldenChat, observed: GoldenChat) -> str | None:
    return golden_chat.difference(recorded, observed, near_tie=NEAR_TIE)


ENDLESS = a_chat(
    text="Good day! Good da", tokens=tokens("Good", " day", "!", " Good", " da", "y", "!", " G"), finish_reason="length"
)


def a_set(*chats: GoldenChat, no_chat: str = "") -> GoldenSet:
    item = GoldenItem(prompt="p", token_logprobs=(-1.0,), greedy=())
    return GoldenSet(items=(item,), device="cpu", dtype="float32", chats=chats, no_chat=no_chat)


def test_the_same_chat_agrees_and_says_what_was_compared() -> None:
    told = golden_chat.told(a_chat(), a_chat(end_gap=0.0), near_tie=NEAR_TIE)

    assert difference(a_chat(), a_chat(end_gap=0.0)) is None
    assert told == "a chat as recorded: its 3 token ids are the same, 3 of the answer's 3 tokens and its end compared"


def test_another_template_is_a_difference_even_where_the_answer_is_the_same() -> None:
    wrong = difference(a_chat(), a_chat(prompt_ids=(1, 9, 9, 2)))

    assert wrong is not None
    assert "4 tokens after its template and had 3" in wrong
    assert "from token 1 on [9, 9, 2] in place of [7, 2]" in wrong


def test_an_answer_that_never_ends_where_it_ended_before_is_a_difference() -> None:
    wrong = difference(a_chat(), ENDLESS)

    assert wrong is not None
    assert "goes on" in wrong
    assert "'length'" in wrong


def test_an_answer_that_ends_later_is_a_difference_and_an_end_token_that_is_counted_is_none() -> None:
    later = tokens("Good", " day", "!", " Bye", ".")
    with_its_end = tokens("Good", " day", "!", "<|im_end|>")

    assert difference(a_chat(), a_chat(text="Good day! Bye.", tokens=later)) is not None
    assert difference(a_chat(), a_chat(tokens=with_its_end)) is None


def test_an_answer_that_ends_too_early_is_a_difference() -> None:
    assert difference(a_chat(), a_chat(text="Good", tokens=tokens("Good"))) is not None
    assert difference(ENDLESS, a_chat()) is not None


def test_another_token_is_a_difference_up_to_the_first_near_tie_only() -> None:
    unsure = (*tokens("Good"), *tokens(" day", gap=0.4), *tokens("!"))
    other = a_chat(text="Good bye", tokens=tokens("Good", " bye"))

    assert difference(a_chat(), other) is not None
    assert difference(a_chat(tokens=unsure), other) is None
    assert difference(a_chat(tokens=unsure), a_chat(text="Bad", tokens=tokens("Bad"))) is not None


def test_an_end_that_was_a_near_tie_may_be_missed() -> None:
    assert difference(a_chat(end_gap=0.4), ENDLESS) is None


def test_ids_that_nobody_knows_are_not_compared_and_the_verdict_says_so() -> None:
    unknown = a_chat(prompt_ids=None)
    told = golden_chat.told(a_chat(), unknown, near_tie=NEAR_TIE)

    assert difference(a_chat(), unknown) is None
    assert "could not be compared, since this engine has no /tokenize" in told
    assert difference(a_chat(), replace(ENDLESS, prompt_ids=None)) is not None


def test_a_template_that_tells_the_date_is_excused_another_day_but_not_on_the_same() -> None:
    dated = a_chat(is_dated=True)
    tomorrow = a_chat(prompt_ids=(1, 8, 2), text="Hi", tokens=tokens("Hi"))

    assert difference(dated, tomorrow) is None
    assert "tells the date" in golden_chat.told(dated, tomorrow, near_tie=NEAR_TIE)
    assert difference(dated, replace(ENDLESS)) is not None
    assert difference(dated, replace(tomorrow, prompt_ids=None)) is None


def test_a_program_without_log_probabilities_is_compared_by_text_and_end() -> None:
    only_text = a_chat(tokens=())

    assert difference(a_chat(), only_text) is None
    assert difference(a_chat(), replace(only_text, text="Good night")) is not None
    assert difference(a_chat(), replace(only_text, finish_reason="length")) is not None


def test_names_of_tokens_that_are_no_whole_characters_do_not_spoil_a_text() -> None:
    recorded = a_chat(text="né", tokens=tokens("n", "token_id:195", "token_id:169"))

    assert difference(recorded, replace(recorded, tokens=())) is None


def test_a_golden_set_with_chats_is_read_as_it_was_written() -> None:
    whole = a_set(a_chat(), ENDLESS)

    assert golden.parse(whole.to_json()) == whole
    assert golden.parse(a_set(no_chat="no template").to_json()).no_chat == "no template"


def test_a_golden_set_from_before_chats_is_still_valid() -> None:
    document = json.loads(a_set().to_json())
    del document["chats"], document["no_chat"]
    old = golden.parse(json.dumps(document).encode())

    assert old.chats == ()
    assert golden.compare_chats(old, [], dtype="float32").because == "no chat: recorded before chats were"


def test_a_chat_that_is_malformed_is_named() -> None:
    document = json.loads(a_set(a_chat()).to_json())
    document["chats"][0]["tokens"] = 7

    with pytest.raises(ManifestError, match="cannot be read"):
        golden.parse(json.dumps(document).encode())


def test_the_tolerance_of_the_dtypes_decides_what_a_near_tie_is() -> None:
    recorded = a_set(a_chat(tokens=tokens("Good", " day", "!", gap=0.9)))
    other = [a_chat(text="Bad", tokens=tokens("Bad"))]

    assert not golden.compare_chats(recorded, other, dtype="float32").passed
    assert golden.compare_chats(recorded, other, dtype="bfloat16").passed


def test_an_answer_that_did_not_end_at_publishing_is_said() -> None:
    verdict = golden.compare_chats(a_set(ENDLESS), [ENDLESS], dtype="float32")

    assert verdict.passed
    assert "does not end within 8 tokens" in verdict.because
