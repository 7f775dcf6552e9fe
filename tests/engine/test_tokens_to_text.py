from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from pipeline.demo.world import build_tokenizer
from server.engine.detokenizing import Detokenizer


def pieces_of(decode: Callable[[list[int]], str], ids: Sequence[int], context: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(decode, context)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


def byte_tokens(pieces: Sequence[bytes]) -> Callable[[list[int]], str]:
    """Token n is the n-th piece: a byte-level vocabulary in which characters are cut anywhere."""
    return lambda ids: b"".join(pieces[token_id] for token_id in ids).decode(errors="replace")


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    text = draw(st.text(max_size=20))
    data = text.encode()
    places = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=12)))
    return text, [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


@given(cut_texts())
def test_pieces_of_byte_level_tokens_join_to_the_text(cut: tuple[str, list[bytes]]) -> None:
    text, tokens = cut
    pieces = pieces_of(byte_tokens(tokens), range(len(tokens)))

    assert "".join(pieces) == text


@given(st.text(alphabet="aé€🙂", max_size=12))
def test_no_piece_holds_half_a_character(text: str) -> None:
    tokenizer = build_tokenizer()
    pieces = pieces_of(tokenizer.decode, tokenizer(text).input_ids)

    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == text


@given(st.lists(st.integers(0, 255), max_size=60))
def test_noise_ends_as_replacement_characters_and_is_not_held_for_ever(ids: list[int]) -> None:
    tokens = [bytes([number]) for number in range(256)]
    pieces = pieces_of(byte_tokens(tokens), ids)

    assert len("".join(pieces)) > 0 or not ids
    assert all(len(piece) <= 32 for piece in pieces)


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    assert pieces_of(byte_tokens([b"a", b"\xf0\x9f"]), [0, 1]) == ["a", "", "\ufffd"]


@given(st.integers(0, 3), st.integers(1, 80))
def test_tokens_that_each_end_inside_a_character_break_none(offset: int, num_tokens: int) -> None:
    data = "👩‍".encode()  # 7 bytes, turned: each token ends the character that the one before it began
    turned = data[offset:] + data[:offset]
    decode = byte_tokens([turned])
    pieces = pieces_of(decode, [0] * num_tokens)

    assert "".join(pieces) == decode([0] * num_tokens)
    assert pieces_of(decode, [0] * 70)[65]  # and they come as they are complete


def test_a_run_of_special_tokens_costs_what_its_length_says() -> None:
    seen: list[int] = []

    def decode(ids: list[int]) -> str:
        seen.append(len(ids))
        return "".join("a" for token_id in ids if token_id)

    assert "".join(pieces_of(decode, [1, *[0] * 500, 1])) == "aa"
    assert max(seen) <= 18


def test_a_character_that_the_prompt_left_open_is_not_taken_for_the_answers() -> None:
    tokens = [b"a", "é".encode()[:1], "é".encode()[1:], b"b"]

    assert "".join(pieces_of(byte_tokens(tokens), [2, 3], context=[0, 1])) == "b"


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """The decoder of Llama 2: a mark for spaces, bytes for what has no token, the first space dropped."""
    words = ["<unk>", "▁", "▁Hello", "▁world", "!", "s", *(f"<0x{byte:02X}>" for byte in "é🙂".encode())]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@given(st.lists(st.sampled_from([[1], [2], [3], [4], [5], [6, 7], [8, 9, 10, 11]]), max_size=12))
def test_pieces_of_sentencepiece_tokens_join_to_the_text(sentencepiece: Tokenizer, words: list[list[int]]) -> None:
    ids = [token_id for word in words for token_id in word]

    assert "".join(pieces_of(sentencepiece.decode, ids)) == sentencepiece.decode(ids)


def test_the_first_word_after_a_prompt_keeps_its_space(sentencepiece: Tokenizer) -> None:
    assert pieces_of(sentencepiece.decode, [3, 4], context=[2]) == [" world", "!", ""]


def test_special_tokens_without_text_lose_nothing_around_them(sentencepiece: Tokenizer) -> None:
    def decode(ids: list[int]) -> str:
        return sentencepiece.decode([token_id for token_id in ids if token_id != 0])

    assert "".join(pieces_of(decode, [2, 0, 0, 3])) == "Hello world"


def test_a_prompt_that_is_cut_inside_a_character_spoils_nothing() -> None:
    tokens = ["é".encode()[:1], "é".encode()[1:], b"a", "🙂".encode()]

    assert pieces_of(byte_tokens(tokens), [3, 2], context=[0, 1, 2, 2, 2, 2, 2]) == ["🙂", "a", ""]


@pytest.mark.parametrize("text", ["\ufffd\ufffdé", "a\ufffd\ufffd\ufffdé🙂", "é\ufffd\ufffdab\ufffd\ufffd🙂b"])
def test_what_follows_replacement_characters_of_byte_fallback_is_not_lost(text: str) -> None:
    """Their decoder makes one U+FFFD of each byte of a run that is not whole, also of the whole characters in it."""
    tokenizer = Tokenizer(models.BPE(vocab={f"<0x{byte:02X}>": byte for byte in range(256)}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

    assert "".join(pieces_of(tokenizer.decode, list(text.encode()))) == text
