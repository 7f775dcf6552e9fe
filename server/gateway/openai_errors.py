"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiProblem:
    """An error answer.

    Attributes:
        type: OpenAI's family: `invalid_request_error`, `authentication_error`, `server_error`.
        code: Machine-readable; documented in `docs/http.md`.
        headers: Extra response headers, such as `Retry-After`.
    """

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str) -> bytes:
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "request_id": request_id,
        }
        return json.dumps({"error": error}).encode()

    def event(self, request_id: str) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        return b"data: " + self.body(request_id) + b"\n\n"


def invalid(message: str, *, code: str = "invalid_request", param: str | None = None, status: int = 400) -> ApiProblem:
    """The request is at fault."""
    return ApiProblem(status=status, message=message, type="invalid_request_error", code=code, param=param)


def unavailable(message: str, *, code: str, retry_after_s: int) -> ApiProblem:
    """The server cannot answer now."""
    headers = {"Retry-After": str(retry_after_s)}
    return ApiProblem(status=503, message=message, type="server_error", code=code, headers=headers)


def unauthorized() -> ApiProblem:
    return ApiProblem(
        status=401,
        message="this server needs its API key: send `Authorization: Bearer <key>`",
        type="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def restarting() -> ApiProblem:
    """No engine came back in time, or too many requests wait for one."""
    message = "the engine died and is being restarted; send the request again"
    return unavailable(message, code="engine_restarting", retry_after_s=2)


def server_stopping(what: str = "the request was not begun") -> ApiProblem:
    """This server is on its way out."""
    message = f"{what}: this server is shutting down; send the request again"
    return unavailable(message, code="server_stopping", retry_after_s=1)


def server_full() -> ApiProblem:
    """All connections that this server has room for are being answered."""
    message = "this server answers as many requests as it has connections for; send the request again"
    return unavailable(message, code="server_full", retry_after_s=1)


def kills_engines() -> ApiProblem:
    """Two engines died while they held this request."""
    return ApiProblem(
        status=502,
        message="two engines died while they were answering this request; it is not tried again for 10 minutes. "
        "The log of the engine says how it died",
        type="server_error",
        code="engine_died",
        headers={"x-should-retry": "false"},
    )


def engine_gone(leaving: str = "") -> ApiProblem:
    """The engine ended in the middle of an answer; `leaving` says whether it was to go (`Slot.leaving`)."""
    if leaving == "shutdown":
        return server_stopping("the answer was cut")
    if leaving:
        message = "the answer was cut: its model was replaced and the drain deadline passed; send the request again"
        return ApiProblem(status=503, message=message, type="server_error", code="model_swapped")
    message = "the answer was cut: the engine died and is being restarted; send the request again"
    return ApiProblem(status=502, message=message, type="server_error", code="engine_died")
