"""Tokens to text, one token at a time, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# A character has at most 4 bytes, and a decoder writes at most one U+FFFD for each of the first 3.
_MAX_OPEN = 3
# How much of the prompt is decoded along, so that the first word keeps the space that a lone one would lose.
_CONTEXT_TOKENS = 6
# Where token after token ends inside a character, there is no border to begin anew at: then so many stay, which is more
# than a character has.
_MAX_WINDOW_TOKENS, _KEPT_TOKENS = 16, 8


class Detokenizer:
    """Turns the tokens of one answer into text whose pieces, joined, are the text of all of them.

    Decodes a short window of tokens and gives out what it adds to the window before it, but for a character that is not
    complete: right for byte-level tokenizers, whose characters may span tokens, and for SentencePiece ones, which drop
    the space of a first word. Source: the prefix-offset method of text-generation-inference.
    """

    def __init__(self, decode: Callable[[list[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._text = self._shown = ""
        self._num_old_tokens = 0
        self._begin(_whole_characters(decode, context))
        self._shown = self._text  # the prompt's own end is not the answer's to complete

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is still open."""
        text = self._decode([*self._ids, token_id])
        is_full = len(self._ids) >= _MAX_WINDOW_TOKENS
        if is_full and text == self._text and not self._decode([token_id]):
            return ""  # one more special token, which has no text of its own
        self._ids.append(token_id)
        self._text = text
        # Byte-fallback decoders take back a whole run of bytes, one U+FFFD each, while its last character is open.
        whole = text[: len(text) - _num_open(text, _MAX_OPEN if is_full else len(text))]
        fresh = whole[len(self._shown) :] if is_full or whole.startswith(self._shown) else ""
        self._shown += fresh
        if fresh and self._shown == text:
            self._begin(self._ids[self._num_old_tokens :])
        elif is_full:
            self._begin(self._ids[-_KEPT_TOKENS:])
        return fresh

    def flush(self) -> str:
        """What is left at the end: characters that were never completed, as U+FFFD."""
        rest = self._text[len(self._shown) :]
        self._shown += rest
        return rest

    def _begin(self, ids: list[int]) -> None:
        """A window of `ids`, all of whose whole characters have been shown."""
        self._ids = list(ids)
        self._num_old_tokens = len(ids)
        self._text = self._decode(self._ids) if ids else ""
        self._shown = self._text[: len(self._text) - _num_open(self._text)]


def _num_open(text: str, most: int = _MAX_OPEN) -> int:
    """How many characters at the end, `most` at most, may belong to one that is not complete."""
    end = text[max(0, len(text) - most) :]
    return len(end) - len(end.rstrip(_REPLACEMENT))


def _whole_characters(decode: Callable[[list[int]], str], context: Sequence[int]) -> list[int]:
    """The last few tokens of the prompt, from where a character begins: half a one would spoil what follows it."""
    for size in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + 4):
        window = list(context[-size:])
        if not decode(window).startswith(_REPLACEMENT):
            return window
    return list(context[-_CONTEXT_TOKENS:])
