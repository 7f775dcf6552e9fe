"""Requests wait for the successor of a dying engine; one that kills engines is stopped after its second victim."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from server.gateway.lineup import Slot
from tests.gateway.front import (
    EVENTS,
    JSON,
    Front,
    Handler,
    a_front,
    answering,
    chunk,
    die,
    request_of,
    with_length,
)

STOPPING = JSON.replace(b"200 OK", b"503 Service Unavailable")
STOPPING_BODY = b'{"error": {"code": "engine_stopping"}}'
WELL = answering(with_length(b'{"well": true}'))


async def gone(reader: Any, writer: Any) -> None:
    """Its sockets are gone; its process is not yet."""


async def stopping(reader: Any, writer: Any) -> None:
    while True:
        is_get = (await request_of(reader)).startswith(b"GET")
        writer.write(with_length(b"{}") if is_get else with_length(STOPPING_BODY, STOPPING))


async def dropping(reader: Any, writer: Any) -> None:
    """Healthy, but it drops every request."""
    while (await request_of(reader)).startswith(b"GET"):
        writer.write(with_length(b"{}"))


def mortal(front: Front, deaths: list[Slot], *said: bytes) -> Handler:
    """An engine that dies of a request that says `poison`, after `said`; another takes its place."""

    async def handler(reader: Any, writer: Any) -> None:
        while b"poison" not in await request_of(reader):
            writer.write(with_length(b"{}"))
        for piece in said:
            writer.write(piece)
            await writer.drain()
        dead = front.lineup.current
        assert dead is not None
        die(dead)
        deaths.append(dead)
        if front.spares:
            front.lineup.replace_dead(front.spares.pop())

    return handler


@pytest.mark.parametrize("last_words", [gone, stopping])
def test_a_request_waits_until_the_dying_engine_is_dead_and_its_successor_answers(last_words: Handler) -> None:
    with a_front(last_words) as front, ThreadPoolExecutor() as pool:
        dying = front.lineup.current
        asked = [pool.submit(front.chat) for _ in range(3)]
        time.sleep(0.5)
        were_answered = [future.done() for future in asked]
        assert dying is not None
        die(dying)
        front.lineup.replace_dead(front.engine(WELL))
        answers = [future.result(20) for future in asked]

    assert not any(were_answered)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].json() == {"well": True}
    assert dying.in_flight == 0


def test_a_request_does_not_wait_for_longer_than_it_may_be_held() -> None:
    with a_front(gone, hold_timeout_s=0.3) as front:
        answer = front.chat()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_restarting")


def test_an_engine_that_lives_but_drops_a_request_gets_it_three_times() -> None:
    with a_front(dropping) as front:
        answer = front.chat()

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_died")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_killed_two_engines_is_answered_502_and_gets_no_third(stream: bool) -> None:
    poison = {"stream": stream, "user": "poison"}
    said = (EVENTS, chunk(b"data: 1\n\n")) if stream else ()
    deaths: list[Slot] = []
    with a_front() as front:
        slots = [front.engine(mortal(front, deaths, *said)) for _ in range(3)]
        front.spares.extend(slots[1:])
        front.lineup.flip(slots[0])
        for _ in range(2 if stream else 1):
            front.chat(**poison)
            time.sleep(0.3)
        again, other = front.chat(**poison), front.chat()

    assert len(deaths) == 2
    assert (again.status_code, again.json()["error"]["code"]) == (502, "engine_died")
    assert "two engines died" in again.json()["error"]["message"]
    assert again.headers["x-should-retry"] == "false"
    assert other.status_code == 200
    assert [slot.in_flight for slot in slots] == [0, 0, 0]


def test_a_server_that_is_going_does_not_say_that_its_engine_died() -> None:
    with a_front(gone, drain_notice_s=60) as front:
        slot = front.lineup.current
        assert slot is not None
        slot.leaving = "shutdown"
        with_engine = front.chat()
        front.departure.announce()
        front.departure.announce()
        die(slot)
        try:
            without = front.chat()
        except httpx.TransportError:  # the door was closed before the question came
            without = with_engine

    assert (with_engine.status_code, with_engine.json()["error"]["code"]) == (503, "server_stopping")
    assert without.status_code == 503


@pytest.mark.parametrize("name", ["модель-中文", "100% ours", "relay demo"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_models_name_may_be_in_any_script(name: str, stream: bool) -> None:
    said = (EVENTS, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n") if stream else (with_length(b"{}"),)
    with a_front(answering(*said), name=name) as front:
        answer = front.chat(stream=stream)
        slot = front.lineup.current

    assert answer.status_code == 200
    assert unquote(answer.headers["x-relay-model"]) == name
    assert slot is not None
    assert slot.in_flight == 0


@pytest.mark.parametrize("health", [b"true", b'"ok"', b"[1]", b"not json", b"", b"[" * 100_000])
def test_what_another_programs_health_says_does_not_break_models_info(health: bytes) -> None:
    with a_front(answering(health=health)) as front:
        info = front.client.get("/models/info")

    assert (info.status_code, info.json()["loaded"]) == (200, True)
