"""Tokens to text, one token at a time, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# A character has at most 4 bytes; more open tokens than this are no character in the making but noise, which may go.
_MAX_HELD_TOKENS = 16
# How much of the prompt is decoded along, so that the first word keeps the space that a lone one would lose.
_CONTEXT_TOKENS = 6


class Detokenizer:
    """Turns the tokens of one answer into text whose pieces, joined, are the text of all of them.

    Decodes a short window and gives out what it adds to the window before it: right for byte-level tokenizers, whose
    characters may span tokens, and for SentencePiece ones, which drop the space of a first word.
    Source: the prefix-offset method of text-generation-inference.
    """

    def __init__(self, decode: Callable[[list[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = _whole_characters(decode, context)
        self._shown = self._decode(self._ids) if self._ids else ""
        self._num_shown_tokens = len(self._ids)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is still open."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        is_open = text.endswith(_REPLACEMENT) and len(self._ids) - self._num_shown_tokens < _MAX_HELD_TOKENS
        return "" if is_open else self._show(text)

    def flush(self) -> str:
        """What is left at the end: characters that were never completed, as U+FFFD."""
        return self._show(self._decode(self._ids)) if len(self._ids) > self._num_shown_tokens else ""

    def _show(self, text: str) -> str:
        fresh = text[len(self._shown) :]
        if fresh:  # tokens without text of their own (special ones) stay in the window
            self._ids = self._ids[self._num_shown_tokens :]
            self._shown = self._decode(self._ids)
            self._num_shown_tokens = len(self._ids)
        return fresh


def _whole_characters(decode: Callable[[list[int]], str], context: Sequence[int]) -> list[int]:
    """The last few tokens of the prompt, from where a character begins: half a one would spoil what follows it."""
    for size in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + 4):
        window = list(context[-size:])
        if not decode(window).startswith(_REPLACEMENT):
            return window
    return list(context[-_CONTEXT_TOKENS:])
