"""Nobody can hold the gateway's connections: not by silence, by half a request, nor by reading nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from server.gateway import bounds
from server.gateway.bounds import SPARE_CONNECTIONS, BoundedHttp, Crowd, most_connections
from tests.gateway.front import CHAT, Front, a_front, answering, with_length

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"


class Connection:
    """What a crowd knows of one."""

    def __init__(self) -> None:
        self.is_open = True
        self.transport = SimpleNamespace(abort=self.close)

    def close(self) -> None:
        self.is_open = False


def came(crowd: Crowd, num: int, *, asking: bool) -> list[Any]:
    connections = [Connection() for _ in range(num)]
    for connection in connections:
        crowd.enter(cast("BoundedHttp", connection))
        if asking:
            crowd.asks(cast("BoundedHttp", connection))
    return connections


def test_the_connection_that_waits_longest_makes_room_for_a_new_one() -> None:
    crowd = Crowd(3)
    silent = came(crowd, 2, asking=False)
    asking = came(crowd, 1, asking=True)
    new = came(crowd, 1, asking=False)

    assert [each.is_open for each in (*silent, *asking, *new)] == [False, True, True, True]
    assert not crowd.is_full


def test_who_was_answered_waits_again_behind_those_who_waited_before() -> None:
    crowd = Crowd(2)
    (answered,) = came(crowd, 1, asking=True)
    (silent,) = came(crowd, 1, asking=False)
    crowd.waits(answered)
    came(crowd, 1, asking=False)

    assert (answered.is_open, silent.is_open) == (True, False)


def test_requests_are_never_cut_for_new_ones_and_there_is_room_to_ask_how_the_server_is() -> None:
    crowd = Crowd(3)
    asking = came(crowd, 4, asking=True)
    spare = came(crowd, SPARE_CONNECTIONS + 5, asking=False)

    assert crowd.is_full
    assert all(each.is_open for each in asking)
    assert spare[-1].is_open
    assert sum(each.is_open for each in spare) <= SPARE_CONNECTIONS


def test_there_are_never_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((1024, 320), (65_536, 4096), (-1, 4096), (256, 16)):
        monkeypatch.setattr(bounds.resource, "getrlimit", lambda which, soft=soft: (soft, soft))

        assert most_connections() == most


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    for name, seconds in (("HEAD_S", 0.3), ("BODY_SILENCE_S", 0.3), ("BODY_S", 1.0), ("UNREAD_S", 0.3)):
        monkeypatch.setattr(bounds, name, seconds)
    with a_front(answering(with_length(b"{}"))) as running:
        yield running


def is_closed(client: socket.socket, *, dripping: bytes = b"") -> bool:
    """Whether the server closes it within the time of a test."""
    client.settimeout(0.1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            try:
                if dripping:
                    client.sendall(dripping)
                if not client.recv(65536):
                    return True
            except ConnectionError:
                return True
    return False


@pytest.mark.parametrize(
    ("said", "dripping"),
    [
        (b"", b""),
        (b"POST /v1", b""),
        (HEAD, b"x: y\r\n"),
        (HEAD + b"content-length: 9\r\n\r\n{", b""),
        (HEAD + b"content-length: 900\r\n\r\n{", b" "),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", b"\r\n"),
    ],
    ids=["silence", "half a head", "an endless head", "half a body", "a dripping body", "empty lines after an answer"],
)
def test_who_does_not_finish_a_request_is_closed(front: Front, said: bytes, dripping: bytes) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as client:
        client.sendall(said)

        assert is_closed(client, dripping=dripping)
    assert front.chat().status_code == 200


def test_a_head_has_an_end(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as client:
        answer = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(HEAD)
            for _ in range(40):
                client.sendall(b"x" * 10_000 + b": y\r\n")
        with contextlib.suppress(ConnectionError):
            answer = client.recv(65536)

        assert answer.startswith(b"HTTP/1.1 431 ") or not answer
        assert is_closed(client)


def test_an_offer_of_http_2_takes_no_body_away(front: Front) -> None:
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    answers = [front.client.post("/v1/chat/completions", json=CHAT, headers=offer) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["a part of a head", "a whole head"])
def test_a_head_of_many_small_headers_is_not_kept(front: Front, end: bytes) -> None:
    with socket.create_connection(("127.0.0.1", front.port)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"a:b\r\n" * (bounds.MAX_HEADERS + 1) + end)
        answer = client.recv(65536)

        assert answer.startswith(b"HTTP/1.1 431 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b'"head_too_large"' in answer
        assert is_closed(client)


@pytest.mark.parametrize("dripping", [b"a:b\r\n" * 2000, b"x" * 10_000], ids=["many", "one without an end"])
def test_headers_behind_a_body_have_an_end(monkeypatch: pytest.MonkeyPatch, dripping: bytes) -> None:
    kept: list[bytes] = []
    monkeypatch.setattr(bounds.HttpToolsProtocol, "on_header", lambda self, name, value: kept.append(name))
    with a_front(answering(with_length(b"{}"))) as front:
        with socket.create_connection(("127.0.0.1", front.port)) as client:
            client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\na: b")
            begun = time.monotonic()

            assert is_closed(client, dripping=dripping)
        assert time.monotonic() - begun < bounds.BODY_S / 10  # by its size, long before its time is up
        assert kept.count(b"a") == 0
        assert front.chat().status_code == 200


def test_an_answer_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "BODY_SILENCE_S", "BODY_S", "UNREAD_S"):
        monkeypatch.setattr(bounds, name, 0.2)

    async def slow(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2.5)
        writer.write(with_length(b"{}"))

    with a_front(slow) as front:
        assert front.chat().status_code == 200


def test_a_client_that_reads_nothing_of_its_answer_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "UNREAD_S", 0.3)
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"

    async def talking(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(endless)
        while True:
            writer.write(b"data: " + b"x" * 65_536 + b"\n\n")
            await writer.drain()

    with a_front(talking) as front, socket.create_connection(("127.0.0.1", front.port)) as client:
        slot = front.lineup.current
        client.sendall(HEAD + b"content-length: 2\r\n\r\n{}")

        assert slot is not None
        assert comes_true(lambda: slot.in_flight == 1)
        assert comes_true(lambda: slot.in_flight == 0)


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_health_answers_when_silent_connections_hold_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_CONNECTIONS", 16)
    with a_front(answering(with_length(b"{}"))) as front, contextlib.ExitStack() as open_ones:
        for _ in range(200):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", front.port)))
        # New connections: one that waits unused may be the next to go.
        with httpx.Client(base_url=front.client.base_url, timeout=20, trust_env=False) as client:
            answers = client.get("/health"), client.post("/v1/chat/completions", json=CHAT)

    assert [answer.status_code for answer in answers] == [200, 200]
