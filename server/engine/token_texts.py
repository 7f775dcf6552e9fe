"""What one token says by itself: its own text, a leading space included, and its bytes, half a character included."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_REPLACEMENT = "\ufffd"
# How byte-fallback tokenizers write a byte that has no token of its own.
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """A token as log-probabilities show it. Two tokens look alike only where they stand for the same bytes.

    Attributes:
        text: What it adds to a text; special tokens by their name, what is no whole character as `token_id:N`.
        raw: Its bytes; none where the tokenizer does not tell them.
    """

    text: str
    raw: bytes


class TokenTexts:
    """Names the tokens of one tokenizer. Safe to use outside the engine's thread."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.added_tokens_decoder
        kinds = _decoder_state(tokenizer)
        self._bytes_of = _bytes_of_characters() if b'"ByteLevel"' in kinds else None
        self._falls_back = b'"ByteFallback"' in kinds or not kinds
        # Beside it a token keeps the space that it would lose alone.
        self._anchor: list[int] = tokenizer("a", add_special_tokens=False).input_ids[-1:]
        self._anchor_text = self._decode(self._anchor) if self._anchor else ""

    def of(self, token_id: int) -> TokenText:
        """How that token is shown."""
        raw = self._own_bytes(token_id)
        text = self._own_text(token_id) if raw is None else raw.decode(errors="replace")
        if not text or _REPLACEMENT in text:
            return TokenText(text=f"token_id:{token_id}", raw=raw or b"")
        return TokenText(text=text, raw=text.encode())

    def special_id(self, text: str) -> int | None:
        """The special token that is exactly `text`, which no answer shows."""
        return next((one for one, token in self._added.items() if token.special and token.content == text), None)

    def _own_bytes(self, token_id: int) -> bytes | None:
        """Its bytes where the tokenizer keeps bytes; None where it keeps text."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None or token_id in self._added:
            return None
        if self._bytes_of is not None and all(character in self._bytes_of for character in piece):
            return bytes(self._bytes_of[character] for character in piece)
        byte = _BYTE.fullmatch(piece) if self._falls_back else None
        return bytes([int(byte[1], 16)]) if byte else None

    def _own_text(self, token_id: int) -> str:
        added = self._added.get(token_id)
        if added is not None and added.special:
            return str(added.content)
        text = self._decode([*self._anchor, token_id])
        return text[len(self._anchor_text) :] if text.startswith(self._anchor_text) else self._decode([token_id])

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def _decoder_state(tokenizer: Any) -> bytes:
    """What the `tokenizers` library says of its decoder; empty for a tokenizer that is not built on it."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state: bytes = decoder.__getstate__() if decoder is not None else b""
    return state


def _bytes_of_characters() -> dict[str, int]:
    """The bytes for which the characters of a byte-level vocabulary stand: printable ones for themselves.

    Source: `bytes_to_unicode` of GPT-2.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}
