"""One streamed answer as a plain client sees it, and whether it is whole. Pure.

A stream counts as good only when it is complete by the protocol (status 200, a finish_reason, `[DONE]`), carries no
error event, and every part of it names the same version: header, and `system_fingerprint` of every chunk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

VERSION_HEADER = "x-relay-version"
_DATA, _DONE = "data:", "[DONE]"
_MAX_ERROR_BYTES = 300
_FINGERPRINT = re.compile(r"mv(\d+)-[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """What came of one request.

    Attributes:
        status: HTTP status; None when no answer came at all.
        version: What the version header says; None without one.
        fingerprints: The distinct fingerprints of its chunks, in the order of their appearance.
        is_done: Whether `[DONE]` arrived.
        error: What broke it: an error event, a body that is no stream, an exception of the client.
    """

    status: int | None = None
    version: int | None = None
    fingerprints: tuple[str, ...] = ()
    text: str = ""
    finish_reason: str | None = None
    is_done: bool = False
    error: str = ""

    @property
    def fault(self) -> str | None:
        """Why this is a failed request; None for a whole answer of one version."""
        if self.error:
            return self.error
        if self.status != 200:
            return f"status {self.status}"
        if self.finish_reason is None:
            return "the stream ended without a finish_reason"
        if not self.is_done:
            return "the stream ended without [DONE]"
        return self._fault_of_version()

    def _fault_of_version(self) -> str | None:
        if self.version is None:
            return f"no version in the header {VERSION_HEADER}"
        if len(self.fingerprints) != 1:
            return f"{len(self.fingerprints)} fingerprints in one stream: {', '.join(self.fingerprints) or 'none'}"
        named = _FINGERPRINT.fullmatch(self.fingerprints[0])
        if named is None or int(named[1]) != self.version:
            return f"header says version {self.version}, chunks say {self.fingerprints[0]}"
        return None


def begin(status: int, headers: Mapping[str, str]) -> StreamRecord:
    """The record of an answer whose head has arrived."""
    version = headers.get(VERSION_HEADER, "")
    return StreamRecord(status=status, version=int(version) if version.isdecimal() else None)


def take(record: StreamRecord, line: str) -> StreamRecord:
    """`record` with one more line of a server-sent event stream read into it."""
    return _take(record, line.removeprefix(_DATA).strip()) if line.startswith(_DATA) else record


def refused(record: StreamRecord, body: bytes) -> StreamRecord:
    """The record of an answer that is no stream."""
    return replace(record, error=f"status {record.status}: {body[:_MAX_ERROR_BYTES].decode(errors='replace')}")


def broken(record: StreamRecord, error: Exception) -> StreamRecord:
    """The record of an answer that the connection lost on the way."""
    return replace(record, error=f"{type(error).__name__}: {error}")


def _take(record: StreamRecord, data: str) -> StreamRecord:
    if data == _DONE:
        return replace(record, is_done=True)
    try:
        chunk: Any = json.loads(data)
        if "error" in chunk:
            return replace(record, error=f"error event: {chunk['error']}")
        fingerprint = chunk["system_fingerprint"]
        if fingerprint not in record.fingerprints:
            record = replace(record, fingerprints=(*record.fingerprints, str(fingerprint)))
        for choice in chunk["choices"]:  # a last chunk with the usage has none
            text, reason = choice["delta"].get("content") or "", choice["finish_reason"] or record.finish_reason
            record = replace(record, text=record.text + text, finish_reason=reason)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return replace(record, error=f"a chunk that no OpenAI client could read ({error!r}): {data[:_MAX_ERROR_BYTES]}")
    return record
