"""What log-probabilities call a token: its own text with its space, and its bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from pipeline.demo.world import build_tokenizer
from server.engine.loading import LoadedModel
from server.engine.token_texts import TokenText, TokenTexts


@pytest.fixture(scope="module")
def texts() -> TokenTexts:
    """A tokenizer as Llama 2 has it: a mark for spaces, bytes for what has no token."""
    words = ["<unk>", "▁a", "▁engine", "engine", "<0xF0>", "<0x41>", "</s>", "▁", "a"]
    vocabulary = {word: number for number, word in enumerate(words)}
    plain = Tokenizer(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    plain.normalizer = normalizers.Prepend("▁")
    plain.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return TokenTexts(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", eos_token="</s>"))


@pytest.mark.parametrize(
    ("token_id", "text", "raw"),
    [
        (2, " engine", b" engine"),
        (3, "engine", b"engine"),
        (4, "token_id:4", b"\xf0"),
        (5, "A", b"A"),
        (6, "</s>", b"</s>"),
        (7, " ", b" "),
        (99, "token_id:99", b""),
    ],
)
def test_tokens_of_a_sentencepiece_vocabulary(texts: TokenTexts, token_id: int, text: str, raw: bytes) -> None:
    assert texts.of(token_id) == TokenText(text=text, raw=raw)


def test_tokens_of_a_byte_level_vocabulary_have_the_bytes_of_their_text() -> None:
    tokenizer = build_tokenizer()
    texts = TokenTexts(tokenizer)
    ids = tokenizer("né 🙂").input_ids

    assert b"".join(texts.of(token_id).raw for token_id in ids).decode() == "né 🙂"
    assert texts.of(ids[0]).text == "n"
    assert texts.of(ids[1]) == TokenText(text=f"token_id:{ids[1]}", raw="é".encode()[:1])
    assert texts.of(tokenizer.eos_token_id).text == tokenizer.eos_token


def test_chats_show_the_bytes_of_half_a_character(api: Any) -> None:
    half = build_tokenizer()("🙂").input_ids[0]
    answer = api.chat(max_tokens=1, temperature=0, logprobs=True, top_logprobs=1, logit_bias={str(half): 100}).json()
    token = answer["choices"][0]["logprobs"]["content"][0]

    assert (token["token"], token["bytes"]) == (f"token_id:{half}", [0xF0])


def test_two_likeliest_that_differ_by_a_space_are_two(
    loaded: LoadedModel, texts: TokenTexts, make_api: Callable[..., Any]
) -> None:
    named = make_api(dataclasses.replace(loaded, token_texts=texts))
    likely = {"2": 100, "3": 99}  # scores are of the raw logits, so only the echo below needs no luck
    scored = named.complete(prompt=[1, 2, 3], echo=True, logprobs=20, max_tokens=1, logit_bias=likely).json()

    assert scored["choices"][0]["logprobs"]["tokens"][:3] == [" a", " engine", "engine"]
