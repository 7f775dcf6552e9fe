"""Every request has an id that its answer, its error and its log line carry; HEAD is there wherever GET is."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from server.gateway.app import MAX_BODY_BYTES
from tests.gateway.front import CHAT, EVENTS, Front, a_front, answering, chunk, request_of, with_length

SAID: list[bytes] = []
MADE = re.compile(r"req-[0-9a-f]{32}")


async def keeping(reader: Any, writer: Any) -> None:
    while True:
        request = await request_of(reader)
        if request.startswith(b"POST"):
            SAID.append(request)
        writer.write(with_length(b"{}"))


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with a_front(keeping) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/models/info", "/v1/models", "/v1/models/m", "/docs"]
)
def test_head_is_answered_wherever_get_is(front: Front, path: str) -> None:
    head, get = front.client.head(path), front.client.get(path)

    assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])
    assert get.status_code == 200
    assert head.content == b""


def test_head_is_no_way_to_ask(front: Front) -> None:
    assert front.client.head("/v1/chat/completions").status_code == 405
    assert front.client.head("/nowhere").status_code == 404


def test_the_callers_id_is_kept_and_told_to_the_engine(front: Front) -> None:
    answer = front.client.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine/1:a"})

    assert answer.headers.get_list("x-request-id") == ["mine/1:a"]
    assert b"x-request-id: mine/1:a\r\n" in SAID[-1]


@pytest.mark.parametrize("given", [b"", b"two words", b"x" * 129, "имя".encode(), b"\xff"])
def test_what_is_no_id_is_replaced(front: Front, given: bytes) -> None:
    answer = front.client.get("/health", headers={b"x-request-id": given})

    assert MADE.fullmatch(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", "/v1/chat/completions", b"{"),
        ("POST", "/v1/completions", b'{"model": "other"}'),
        ("GET", "/nowhere", b""),
        ("POST", "/models/reload?timeout_s=x", b""),
    ],
)
def test_an_error_carries_the_id_in_its_header_and_its_body(
    front: Front, method: str, path: str, content: bytes
) -> None:
    answer = front.client.request(method, path, content=content, headers={"x-request-id": "mine"})

    assert answer.status_code >= 400
    assert (answer.headers["x-request-id"], answer.json()["error"]["request_id"]) == ("mine", "mine")


def failures(out: str) -> list[str]:
    return [line for line in out.splitlines() if "request.failed" in line]


def test_a_request_that_fails_is_one_line_in_the_log_with_its_id(
    front: Front, capsys: pytest.CaptureFixture[str]
) -> None:
    front.client.post("/v1/chat/completions", json=CHAT | {"model": "secret"}, headers={"x-request-id": "mine-7"})
    lines = failures(capsys.readouterr().out)

    assert len(lines) == 1
    assert all(word in lines[0] for word in ("mine-7", "404", "model_not_found", "/v1/chat/completions"))
    assert "secret" not in lines[0]


def test_a_stream_that_is_cut_carries_the_id_in_its_last_event_and_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def cut(reader: Any, writer: Any) -> None:
        await request_of(reader)
        writer.write(EVENTS + chunk(b"data: 1\n\n"))
        await writer.drain()

    with a_front(cut) as front:
        answer = front.client.post("/v1/completions", json={}, headers={"x-request-id": "mine-8"})
    last = json.loads(answer.text.rpartition("data: ")[2])["error"]
    lines = failures(capsys.readouterr().out)

    assert (last["code"], last["request_id"]) == ("engine_died", "mine-8")
    assert len(lines) == 1
    assert "mine-8" in lines[0]


def test_answers_tell_clients_to_come_elsewhere_when_the_server_is_leaving() -> None:
    with a_front(answering(with_length(b"{}")), drain_notice_s=600) as front:
        before = front.chat()
        front.departure.announce()
        after = front.chat()

    assert (before.headers.get("connection"), after.headers["connection"]) == (None, "close")
    assert after.status_code == 200


def test_a_url_that_a_host_header_bends_asks_the_engine_for_nothing_else_and_makes_no_metric(front: Front) -> None:
    body = json.dumps(CHAT).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost/sleep?\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )
    with socket.create_connection(("127.0.0.1", front.port), timeout=20) as client:
        client.sendall(request)
        while client.recv(65536):
            pass
    paths = set(re.findall(r'relay_requests_total\{path="([^"]*)"', front.client.get("/metrics").text))

    assert all(b"sleep" not in said.partition(b"\r\n")[0] for said in SAID)
    assert paths <= {"/v1/chat/completions", "/v1/completions"}


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_request_that_is_too_large_is_refused_as_documented(front: Front, is_declared: bool) -> None:
    body = b'{"x": "%b"}' % (b"a" * MAX_BODY_BYTES)
    content = body if is_declared else iter([body])
    answer = front.client.post("/v1/completions", content=content)

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert MAX_BODY_BYTES == 2_000_000
