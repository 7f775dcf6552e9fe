"""A stream is good only when it is whole and comes from one version."""

from __future__ import annotations

import json

import httpx
import pytest

from pipeline.demo import streams
from pipeline.demo.streams import StreamRecord


def chunk(text: str = "", reason: str | None = None, fingerprint: str = "mv3-0a1b2c3d") -> str:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return "data: " + json.dumps({"system_fingerprint": fingerprint, "choices": [choice]})


WHOLE = [chunk("15"), "", chunk("6"), "", chunk(reason="stop"), "", "data: [DONE]", ""]


def read(lines: list[str], *, status: int = 200, version: str | None = "3") -> StreamRecord:
    headers = httpx.Headers({"X-Relay-Version": version} if version else {})
    record = streams.begin(status, headers)
    for line in lines:
        record = streams.take(record, line)
    return record


def test_a_whole_stream_of_one_version_has_no_fault() -> None:
    record = read([": a comment", *WHOLE])

    assert record.fault is None
    assert (record.text, record.finish_reason, record.version) == ("156", "stop", 3)


def test_a_last_chunk_with_the_usage_alone_is_no_fault() -> None:
    usage = "data: " + json.dumps({"system_fingerprint": "mv3-0a1b2c3d", "choices": [], "usage": {"total_tokens": 9}})

    assert read([*WHOLE[:-2], usage, "data: [DONE]"]).fault is None


@pytest.mark.parametrize("num_lines", range(len(WHOLE) - 1))
def test_a_stream_cut_anywhere_is_a_failed_request(num_lines: int) -> None:
    record = read(WHOLE[:num_lines])

    if "data: [DONE]" in WHOLE[:num_lines]:
        assert record.fault is None
    else:
        assert record.fault is not None
        assert "without" in record.fault


@pytest.mark.parametrize(
    ("lines", "version", "fault"),
    [
        ([chunk("1"), chunk("2", fingerprint="mv4-ffffffff"), *WHOLE], "3", "2 fingerprints in one stream"),
        (WHOLE, "4", "header says version 4, chunks say mv3-0a1b2c3d"),
        (WHOLE, None, "no version in the header"),
        ([chunk(reason="stop", fingerprint="relay"), "data: [DONE]"], "3", "chunks say relay"),
        ([chunk("1"), 'data: {"error": {"message": "the engine ended"}}'], "3", "the engine ended"),
        (["data: {", *WHOLE], "3", "no OpenAI client could read"),
        (['data: {"choices": []}', *WHOLE], "3", "no OpenAI client could read"),
    ],
)
def test_what_breaks_a_stream_is_named(lines: list[str], version: str | None, fault: str) -> None:
    record = read(lines, version=version)

    assert record.fault is not None
    assert fault in record.fault


def test_a_refusal_carries_its_status_and_what_the_server_said() -> None:
    record = streams.refused(read([], status=503), b'{"error": {"message": "no model"}}')

    assert record.fault == 'status 503: {"error": {"message": "no model"}}'


def test_a_lost_connection_is_a_failed_request_whatever_had_arrived() -> None:
    record = streams.broken(read(WHOLE[:3]), httpx.ReadError("reset by peer"))

    assert record.fault == "ReadError: reset by peer"
    assert record.text == "156"
