"""Logs are events: a stable dotted name in the past tense, with facts as fields. Never secrets, never prompts."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import stamina.instrumentation
import structlog


class _Unfailing:
    """A stream whose failures hurt nobody: a log on a disk that is full must not end what it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def configure(level: str = "INFO") -> None:
    """Send events to stderr: for people on a terminal, as JSON lines elsewhere.

    The process's own stderr no longer raises when it cannot be written, for whoever writes to it.
    """
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = cast("TextIO", _Unfailing(sys.stderr))
    on_terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if on_terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    stamina.instrumentation.set_on_retry_hooks((_retried,))


def _retried(details: stamina.instrumentation.RetryDetails) -> None:
    """Said in our words: stamina's own event shows how it was called, and to people that looks like a crash."""
    reason, wait_s = str(details.caused_by), round(details.wait_for, 1)
    logger().warning("call.failed", reason=reason, num_tries=details.retry_num, again_in_s=wait_s)


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's event log."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log
