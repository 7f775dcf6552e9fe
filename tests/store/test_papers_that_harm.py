"""Whoever can write to the store writes manifests and golden answers: what would hang or hurt is refused for good."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry_hooks import golden, manifest
from registry_hooks.errors import ManifestError
from registry_hooks.golden_chat import MAX_ANSWER_TOKENS, MAX_GOLDEN_CHATS, MAX_GOLDEN_PROMPTS

ITEM = {"prompt": "1 + 1 =", "token_logprobs": [-1.0], "greedy": []}
CHAT = {
    "messages": [{"role": "user", "content": "Hello"}],
    "prompt_ids": [1],
    "is_dated": False,
    "max_tokens": MAX_ANSWER_TOKENS,
    "text": "",
    "tokens": [],
    "finish_reason": "stop",
    "end_gap": 1.0,
}


def a_golden_file(items: list[Any], chats: list[Any]) -> bytes:
    document = {"format": 1, "device": "cpu", "dtype": "float32", "items": items, "chats": chats}
    return json.dumps(document).encode()


def test_as_many_questions_as_may_be_asked_are_read() -> None:
    read = golden.parse(a_golden_file([ITEM] * MAX_GOLDEN_PROMPTS, [CHAT] * MAX_GOLDEN_CHATS))

    assert (len(read.items), len(read.chats)) == (MAX_GOLDEN_PROMPTS, MAX_GOLDEN_CHATS)


@pytest.mark.parametrize(
    "data",
    [
        a_golden_file([ITEM] * (MAX_GOLDEN_PROMPTS + 1), []),
        a_golden_file([ITEM], [CHAT] * (MAX_GOLDEN_CHATS + 1)),
        a_golden_file([ITEM], [CHAT | {"max_tokens": MAX_ANSWER_TOKENS + 1}]),
        a_golden_file([ITEM], [CHAT | {"max_tokens": 10**400}]),
        a_golden_file([ITEM], [CHAT | {"max_tokens": float("inf")}]),
        a_golden_file([ITEM | {"prompt": "\ud800"}], []),
        a_golden_file([ITEM], [CHAT | {"messages": [{"role": "user", "content": "\udfff"}]}]),
        a_golden_file([ITEM | {"token_logprobs": [10**400]}], []),
        a_golden_file([ITEM | {"token_logprobs": [1e308, 1e308]}], []),
        b"[" * 100_000,
    ],
    ids=[
        "prompts", "chats", "a long answer", "a huge number", "infinity", "half a character", "half a character said",
        "a huge value", "a huge sum", "depth",
    ],
)  # fmt: skip
def test_golden_answers_that_cannot_be_asked_in_bounded_time_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        golden.parse(data)


def a_manifest(path: str) -> bytes:
    entry = {"path": path, "size": 0, "sha256": "0" * 64, "chunks": []}
    document = {"format": manifest.FORMAT, "chunk_bytes": manifest.CHUNK_BYTES, "files": [entry]}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, a_manifest("/".join(["\U0001f600" * 63] * 16))], ids=["depth", "a path of 4 KB"]
)
def test_a_manifest_that_no_disk_takes_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        manifest.parse(data)


def test_a_path_is_measured_in_bytes() -> None:
    (entry,) = manifest.parse(a_manifest("model/\u00e9.txt")).files

    assert entry.path == "model/\u00e9.txt"
