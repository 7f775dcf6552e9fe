"""Reads what the server answered: bounded, and with every answer that is none turned into an error that helps."""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from pipeline.prediction.errors import (
    AnswerTimeoutError,
    PredictionError,
    RequestRefusedError,
    ServerBusyError,
    ServerFaultError,
)
from pipeline.prediction.records import ChatAnswer, Origin

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_RETRY_AFTER_S = 30.0
_BUSY = (429, 502, 503, 504)
_SHOWN_CHARS = 300


def body_of(response: httpx.Response) -> bytes:
    """The whole body of an answer that has begun; reading it again gives the same.

    Raises:
        PredictionError: It was cut, fell silent, or is larger than any answer.
    """
    known = response.extensions.get("relay_body")
    if isinstance(known, bytes):
        return known
    pieces, size = [], 0
    try:
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise ServerFaultError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes and was not read on")
    except httpx.TimeoutException as error:
        raise AnswerTimeoutError(
            "the server fell silent in the middle of its answer, which was given up; it was not asked for again: "
            "raise timeout_s, or ask for less",
            code="timeout",
        ) from error
    except httpx.HTTPError as error:
        raise ServerFaultError(
            f"the answer was cut ({type(error).__name__}: {error}); it was not asked for again, since it had begun: "
            "ask again if a new answer will do",
            code="connection_lost",
        ) from error
    finally:
        response.close()
    response.extensions["relay_body"] = b"".join(pieces)
    return b"".join(pieces)


def document_of(response: httpx.Response) -> Mapping[str, Any]:
    """The JSON object that an answer holds.

    Raises:
        PredictionError: It was cut, or is no JSON object.
    """
    try:
        document: Any = json.loads(body_of(response))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ServerFaultError(
            f"{response.request.url} does not answer like a Relay server: check the address, and what listens there"
        )
    return document


def chat_answer(document: Mapping[str, Any], headers: Mapping[str, str]) -> ChatAnswer:
    """The record of a chat completion.

    Raises:
        ServerFaultError: It is none.
    """
    origin, usage = Origin.of(headers), document.get("usage") or {}
    try:
        choice = document["choices"][0]
        return ChatAnswer(
            text=str(choice["message"].get("content") or ""),
            finish_reason=choice.get("finish_reason"),
            model=origin.model or document.get("model"),
            version=origin.version,
            step=origin.step,
            digest=origin.digest,
            fingerprint=document.get("system_fingerprint"),
            num_prompt_tokens=usage.get("prompt_tokens"),
            num_answer_tokens=usage.get("completion_tokens"),
            request_id=headers.get("x-request-id"),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ServerFaultError("the answer is no chat completion: check the address, and what listens there") from error


def problem_of(response: httpx.Response, base_url: str) -> PredictionError:
    """The error that an answer stands for; its body is read."""
    status = response.status_code
    code, said = _said(response)
    what = f"{base_url} answered HTTP {status}" + (f": {said.rstrip('.')}" if said else "")
    if status in _BUSY:
        wait_s = retry_after_s(response.headers.get("retry-after"), now=datetime.now(UTC))
        when = "" if wait_s is None else f" in {wait_s:g} s"
        return ServerBusyError(f"{what}. Try again{when}", code=code, retry_after_s=wait_s)
    if status in (401, 403):
        message = f"{what}. Pass api_key, or set RELAY_SERVE__API_KEY to the key of that server"
        return RequestRefusedError(message, status=status, code=code)
    if 400 <= status < 500:
        return RequestRefusedError(f"{what}. The request was not sent again: mend it", status=status, code=code)
    return ServerFaultError(f"{what}. The server's log says more", code=code)


def retry_after_s(text: str | None, *, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for, a number or a date; None where it says neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def _said(response: httpx.Response) -> tuple[str, str]:
    """The server's code and message, as far as it gave any."""
    try:
        body = body_of(response)
    except PredictionError:
        return "", ""
    try:
        error = json.loads(body)["error"]
        return str(error.get("code") or ""), str(error.get("message") or "")[:_SHOWN_CHARS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", body.decode(errors="replace").strip()[:_SHOWN_CHARS]
