"""What a client is told when there is no answer: OpenAI's error body. HTTP codes live here.

ApiError
├── InvalidRequestError      400 (or 413): the client must change its request
│   └── UnsupportedError     400 unsupported_parameter: a field that OpenAI knows and this engine does not serve
├── ModelNotFoundError       404
├── OverloadedError          429, with Retry-After
└── ServerError              500 or 503
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """An error as OpenAI's clients expect it.

    Attributes:
        param: The request's field that is at fault.
        code: A word that programs can rely on.
    """

    status = 400
    kind = "invalid_request_error"
    code: str | None = None
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def body(self) -> dict[str, Any]:
        """The JSON that goes on the wire."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class InvalidRequestError(ApiError):
    """The client must change its request."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status


class UnsupportedError(ApiError):
    """OpenAI knows the field, this engine does not: ignoring it would answer another question."""

    code = "unsupported_parameter"


class ModelNotFoundError(ApiError):
    """No such model here."""

    status, code = 404, "model_not_found"


class OverloadedError(ApiError):
    """Too many requests wait."""

    status, kind, code = 429, "rate_limit_error", "queue_full"
    headers: Mapping[str, str] = {"retry-after": "1"}


class ServerError(ApiError):
    """Not the client's fault."""

    status, kind, code = 500, "server_error", "server_error"


class StoppingError(ServerError):
    """The engine is ending."""

    status, code = 503, "engine_stopping"
    headers: Mapping[str, str] = {"retry-after": "1"}
