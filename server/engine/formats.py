"""The two shapes in which OpenAI's clients read an answer: chats and completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from server.engine.token_texts import TokenText
from server.engine.transcript import Piece, ScoredToken

Choice = dict[str, Any]


class Format(Protocol):
    """How the pieces of an answer become one of the `choices`; `index` says which."""

    id_prefix: str
    chunk_kind: str
    whole_kind: str

    def opening(self, index: int) -> list[Choice]:
        """What a stream begins with, before the first token."""

    def piece(self, index: int, piece: Piece) -> Choice:
        """One chunk of a stream."""

    def finish(self, index: int, reason: str) -> Choice:
        """The chunk that says why the answer ended."""

    def whole(self, index: int, pieces: Sequence[Piece], reason: str) -> Choice:
        """The answer in one."""


class ChatFormat:
    """`/v1/chat/completions`.

    Args:
        num_top_logprobs: Alternatives to show beside each token; None shows no log-probabilities.
    """

    id_prefix = "chatcmpl"
    chunk_kind = "chat.completion.chunk"
    whole_kind = "chat.completion"

    def __init__(self, *, num_top_logprobs: int | None = None) -> None:
        self._num_top = num_top_logprobs

    def opening(self, index: int) -> list[Choice]:
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def piece(self, index: int, piece: Piece) -> Choice:
        return self._delta(index, {"content": piece.text}) | {"logprobs": self._logprobs(piece.scored)}

    def finish(self, index: int, reason: str) -> Choice:
        return self._delta(index, {}) | {"finish_reason": reason}

    def whole(self, index: int, pieces: Sequence[Piece], reason: str) -> Choice:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        scored = [token for piece in pieces for token in piece.scored]
        return {"index": index, "message": message, "logprobs": self._logprobs(scored), "finish_reason": reason}

    def _delta(self, index: int, delta: dict[str, str]) -> Choice:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _logprobs(self, scored: Sequence[ScoredToken]) -> dict[str, Any] | None:
        if self._num_top is None:
            return None
        return {"content": [self._token(token) for token in scored], "refusal": None}

    def _token(self, token: ScoredToken) -> dict[str, Any]:
        top = list((token.top or {}).items())[: self._num_top]
        return {**_named(token.token, token.logprob), "top_logprobs": [_named(*one) for one in top]}


class CompletionFormat:
    """`/v1/completions`."""

    id_prefix = "cmpl"
    chunk_kind = whole_kind = "text_completion"

    def __init__(self, *, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs

    def opening(self, index: int) -> list[Choice]:
        return []

    def piece(self, index: int, piece: Piece) -> Choice:
        return self._choice(index, piece.text, piece.scored, None)

    def finish(self, index: int, reason: str) -> Choice:
        return self._choice(index, "", (), reason)

    def whole(self, index: int, pieces: Sequence[Piece], reason: str) -> Choice:
        scored = [token for piece in pieces for token in piece.scored]
        return self._choice(index, "".join(piece.text for piece in pieces), scored, reason)

    def _choice(self, index: int, text: str, scored: Sequence[ScoredToken], reason: str | None) -> Choice:
        logprobs = _logprobs(scored) if self._with_logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _named(token: TokenText, logprob: float | None) -> dict[str, Any]:
    """A token as chats show it; clients join the bytes of those that are no whole character."""
    return {"token": token.text, "logprob": logprob, "bytes": list(token.raw) or None}


def _logprobs(scored: Sequence[ScoredToken]) -> dict[str, Any]:
    return {
        "tokens": [token.token.text for token in scored],
        "token_logprobs": [token.logprob for token in scored],
        "top_logprobs": [_by_text(token.top) for token in scored],
        "text_offset": [token.offset_chars for token in scored],
    }


def _by_text(top: dict[TokenText, float] | None) -> dict[str, float] | None:
    return None if top is None else {token.text: logprob for token, logprob in top.items()}
