from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.stopping import StopMatcher


def shown(stops: list[str], *pieces: str) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    texts = [matcher.push(piece) for piece in pieces]
    return [*texts, matcher.flush()], matcher.has_matched


def test_a_stop_string_is_matched_across_tokens_and_not_shown() -> None:
    assert shown(["END"], "a", "bE", "N", "Dc", "d") == (["a", "b", "", "", "", ""], True)


def test_what_only_began_like_a_stop_string_is_shown_in_the_end() -> None:
    assert shown(["END"], "xE", "N") == (["x", "", "EN"], False)


def test_the_longest_beginning_is_held_back() -> None:
    assert shown(["aab"], "aaa", "b") == (["a", "", ""], True)


def test_the_first_of_several_stop_strings_ends_the_text() -> None:
    assert shown(["zz", "b", "yy"], "abzz")[0][0] == "a"


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert shown([], "a", "b") == (["a", "b", ""], False)


texts = st.lists(st.text(alphabet="ab", max_size=4), max_size=8)


@given(texts, st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=4))
def test_the_text_ends_where_the_earliest_match_begins(pieces: list[str], stops: list[str]) -> None:
    parts, has_matched = shown(stops, *pieces)
    text, whole = "".join(parts), "".join(pieces)

    assert whole.startswith(text)
    assert not any(stop in text for stop in stops)
    assert has_matched == any(stop in whole for stop in stops)
    assert has_matched or text == whole


@pytest.mark.parametrize("stop", ["\n\n", "é!", "🙂🙂"])
def test_stop_strings_may_be_any_text(stop: str) -> None:
    assert shown([stop], "one", stop[:1], stop[1:], "two") == (["one", "", "", "", ""], True)
