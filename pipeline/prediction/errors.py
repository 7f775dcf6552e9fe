"""What can go wrong between the client and the server.

PredictionError(RelayError)
├── ServerUnreachableError     nobody answered; transient
├── ServerBusyError            429, 502, 503, 504: it answers, but not now; transient
├── AnswerTimeoutError         it took the request and then said nothing
├── RequestRefusedError        4xx: the request or its key is at fault (a UserError too)
├── ServerFaultError           any other answer that is none
└── StreamBrokenError          an answer that had begun was not finished; holds the text so far

`transient` errors were retried before they reach you. A request that has begun to answer is never sent again.
"""

from __future__ import annotations

from registry_hooks.errors import RelayError, UserError


class PredictionError(RelayError):
    """The server gave no whole answer.

    Attributes:
        code: The server's own word for it, such as `model_not_found`; empty when it said none.
        retry_after_s: When the server wants to be asked again; None when it did not say.
    """

    def __init__(self, message: str, *, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class ServerUnreachableError(PredictionError):
    """Nobody answered, or the connection ended before the answer began."""

    transient = True


class ServerBusyError(PredictionError):
    """The server, or a proxy before it, cannot answer now."""

    transient = True


class AnswerTimeoutError(PredictionError):
    """The server took the request and then said nothing for too long."""


class RequestRefusedError(PredictionError, UserError):
    """The request, or the key that came with it, is at fault.

    Attributes:
        status: HTTP status, 400 to 499.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message, code=code)
        self.status = status


class ServerFaultError(PredictionError):
    """The server failed, or what answers is no such server."""


class StreamBrokenError(PredictionError):
    """A streamed answer was not finished.

    Attributes:
        text: What had arrived.
        version: Which version was answering; None when the server did not say.
    """

    def __init__(self, message: str, *, text: str, version: int | None, code: str = "") -> None:
        super().__init__(message, code=code)
        self.text = text
        self.version = version
