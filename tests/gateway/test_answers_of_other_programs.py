"""What the engines of others send is whole or cut by the rules of HTTP, not by the habits of one server."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.gateway.front import EVENTS, Handler, a_front, answering, chunk, request_of, with_length


def event(finish_reason: str | None, text: str = "a") -> bytes:
    delta = {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    document = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def once(*pieces: bytes) -> Handler:
    """An engine that says this to each request and closes the connection."""

    async def handler(reader: Any, writer: Any) -> None:
        await request_of(reader)
        for piece in pieces:
            writer.write(piece)
        await writer.drain()

    return handler


def told(handler: Handler) -> list[str | None]:
    """The finish reasons of a stream, as openai's client reads it."""
    with a_front(handler) as front:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{front.port}/v1", api_key="none", max_retries=0)
        messages: Any = [{"role": "user", "content": "hi"}]
        with client:
            stream = client.chat.completions.create(model="m", messages=messages, stream=True)
            return [piece.choices[0].finish_reason for piece in stream]


def test_openais_client_reads_a_chunked_stream_without_done_to_its_end() -> None:
    """`transformers serve` sends none."""
    pieces = (EVENTS, chunk(event(None)), chunk(event(None)), chunk(event("length", "")), b"0\r\n\r\n")

    assert told(once(*pieces)) == [None, None, "length"]


def test_openais_client_is_told_of_a_stream_that_was_cut() -> None:
    with pytest.raises(openai.APIError, match="cut"):
        told(once(EVENTS, chunk(event(None))))


def test_a_json_answer_without_a_length_that_was_cut_is_not_passed_on_as_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    with a_front(once(head, b'{"choices": [{"text": "half'), hold_timeout_s=1) as front:
        cut = front.chat()
    with a_front(once(head, b'{"choices": []}')) as front:
        whole = front.chat()

    assert cut.status_code == 502
    assert (whole.status_code, whole.json()) == (200, {"choices": []})


@pytest.mark.parametrize("stream", [False, True])
def test_a_path_on_this_box_does_not_leave_it_as_the_models_name(stream: bool) -> None:
    text = r"the \"model\": \"/cache/9e9b/model\""
    said = b'{"model": "/cache/9e9b/model@main", "text": "%b"}' % text.encode()
    pieces = (EVENTS, chunk(b"data: " + said + b"\n\n"), b"0\r\n\r\n") if stream else (with_length(said),)
    with a_front(name="relay demo") as front:
        front.flip(answering(*pieces), model_name="/cache/9e9b/model")
        answer = front.chat(stream=stream)
        cards = front.client.get("/v1/models").text
    document = json.loads(answer.text.removeprefix("data: "))

    assert document["model"] == "relay demo"
    assert document["text"] == json.loads(f'"{text}"')
    assert "/cache" not in cards
