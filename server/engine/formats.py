"""The two shapes in which OpenAI's clients read an answer: chats and completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from server.engine.transcript import Piece, ScoredToken

Choice = dict[str, Any]


class Format(Protocol):
    """How the pieces of an answer become `choices[0]`."""

    id_prefix: str
    chunk_kind: str
    whole_kind: str

    def opening(self) -> list[Choice]:
        """What a stream begins with, before the first token."""

    def piece(self, piece: Piece) -> Choice:
        """One chunk of a stream."""

    def finish(self, reason: str) -> Choice:
        """The chunk that says why the answer ended."""

    def whole(self, pieces: Sequence[Piece], reason: str) -> Choice:
        """The answer in one."""


class ChatFormat:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    chunk_kind = "chat.completion.chunk"
    whole_kind = "chat.completion"

    def opening(self) -> list[Choice]:
        return [self._delta({"role": "assistant", "content": ""})]

    def piece(self, piece: Piece) -> Choice:
        return self._delta({"content": piece.text})

    def finish(self, reason: str) -> Choice:
        return self._delta({}) | {"finish_reason": reason}

    def whole(self, pieces: Sequence[Piece], reason: str) -> Choice:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}

    def _delta(self, delta: dict[str, str]) -> Choice:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}


class CompletionFormat:
    """`/v1/completions`."""

    id_prefix = "cmpl"
    chunk_kind = whole_kind = "text_completion"

    def __init__(self, *, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs

    def opening(self) -> list[Choice]:
        return []

    def piece(self, piece: Piece) -> Choice:
        return self._choice(piece.text, piece.scored, None)

    def finish(self, reason: str) -> Choice:
        return self._choice("", (), reason)

    def whole(self, pieces: Sequence[Piece], reason: str) -> Choice:
        scored = [token for piece in pieces for token in piece.scored]
        return self._choice("".join(piece.text for piece in pieces), scored, reason)

    def _choice(self, text: str, scored: Sequence[ScoredToken], reason: str | None) -> Choice:
        logprobs = _logprobs(scored) if self._with_logprobs else None
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(scored: Sequence[ScoredToken]) -> dict[str, Any]:
    return {
        "tokens": [token.token for token in scored],
        "token_logprobs": [token.logprob for token in scored],
        "top_logprobs": [token.top for token in scored],
        "text_offset": [token.offset_chars for token in scored],
    }
