"""An engine whose process exists and says nothing is found, and replaced; one that is only slow is left alone."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.gateway import pulse
from server.gateway.lineup import Slot
from server.gateway.pulse import Pulse
from tests.gateway.front import CHAT, EVENTS, a_front, answering, chunk, with_length
from tests.gateway.stand_ins import World


@dataclass
class Engine:
    """Listens and answers only when the test says so."""

    listener: socket.socket
    slot: Slot
    num_kills: int = 0

    def answer(self) -> None:
        connection, _ = self.listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.close()


@dataclass
class Watched:
    engine: Engine
    pulse: Pulse

    def seconds(self, number: int) -> None:
        for _ in range(number):
            self.pulse.feel()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(pulse, "_LISTEN_S", 0.02)
    world = World()
    slot: Any = world.slot_of(1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        engine = Engine(listener=listener, slot=slot)
        slot.engine.ready = SimpleNamespace(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")

        def kill() -> None:
            engine.num_kills += 1
            slot.engine.alive = False

        slot.engine.kill = kill
        slot.engine.spec = SimpleNamespace(command="")
        world.lineup.flip(slot)
        felt = Pulse(world.lineup, hung_after_s=5, work_silence_s=12)
        yield Watched(engine=engine, pulse=felt)
        felt.stop()
        felt.run()  # closes what it has open


def test_an_engine_that_says_nothing_is_not_ready_and_then_ended(watched: Watched) -> None:
    ready = []
    for _ in range(5):
        ready.append(watched.engine.slot.is_answering)
        watched.seconds(1)
    watched.seconds(3)

    assert ready == [True, True, True, False, False]
    assert watched.engine.num_kills == 1


def test_an_engine_that_answers_late_lives(watched: Watched) -> None:
    watched.seconds(4)
    was_ready = watched.engine.slot.is_answering
    watched.engine.answer()
    watched.seconds(1)
    is_ready = watched.engine.slot.is_answering
    watched.seconds(4)

    assert (was_ready, is_ready, watched.engine.num_kills) == (False, True, 0)


def test_an_engine_whose_streams_go_on_lives(watched: Watched) -> None:
    for _ in range(20):
        watched.engine.slot.ear.num_heard += 1
        watched.seconds(1)

    assert watched.engine.num_kills == 0
    assert watched.engine.slot.is_answering


def test_an_engine_that_cannot_be_reached_is_ended(watched: Watched) -> None:
    watched.engine.listener.close()
    watched.seconds(5)

    assert watched.engine.num_kills == 1


def test_an_engine_that_is_to_go_anyway_is_left_to_those_who_end_it(watched: Watched) -> None:
    watched.engine.slot.leaving = "shutdown"
    watched.seconds(10)

    assert watched.engine.num_kills == 0


@pytest.fixture
def program(watched: Watched) -> Watched:
    """Another program in the engine's place, which has one request."""
    watched.engine.slot.engine.spec = cast("Any", SimpleNamespace(command="one at a time"))
    watched.engine.slot.in_flight = 1
    return watched


def test_a_program_that_does_one_thing_at_a_time_may_work_as_long_as_a_request_may_take(program: Watched) -> None:
    program.seconds(11)
    was_ready, num_kills = program.engine.slot.is_answering, program.engine.num_kills
    program.seconds(3)

    assert (was_ready, num_kills) == (True, 0)
    assert program.engine.num_kills == 1


def test_the_same_holds_where_its_line_is_so_full_that_nobody_can_ask(program: Watched) -> None:
    program.engine.listener.close()
    program.seconds(11)

    assert program.engine.num_kills == 0


def test_a_program_that_answers_in_the_middle_of_a_request_has_no_such_excuse(program: Watched) -> None:
    for _ in range(3):
        program.seconds(2)
        program.engine.answer()
    program.seconds(7)

    assert program.engine.num_kills == 1


def test_a_program_that_gives_two_answers_at_once_has_none_either(program: Watched) -> None:
    program.engine.slot.ear.num_open = 2
    program.seconds(1)
    program.engine.slot.ear.num_open = 0
    program.seconds(5)

    assert program.engine.num_kills == 1


def test_an_answer_between_two_requests_shows_nothing(program: Watched) -> None:
    for _ in range(3):
        program.seconds(4)
        program.engine.slot.num_ended += 1  # the next one waits in its line already
        program.engine.answer()
    program.seconds(9)

    assert program.engine.num_kills == 0


def test_a_request_that_comes_to_a_silent_program_is_no_excuse(program: Watched) -> None:
    program.engine.slot.in_flight = 0
    program.seconds(3)
    program.engine.slot.in_flight = 1
    program.seconds(3)

    assert program.engine.num_kills == 1


def test_answers_that_have_begun_and_not_ended_are_counted() -> None:
    pieces = EVENTS + chunk(b"data: {}\n\n")
    with a_front(answering(pieces)) as front:
        slot = front.lineup.current
        assert slot is not None
        with front.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as stream:
            next(stream.iter_raw())
            during = slot.ear.num_open
        deadline = time.monotonic() + 20
        while slot.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)

    assert (during, slot.ear.num_open, slot.num_ended) == (1, 0, 1)


def test_balancers_hear_that_an_engine_hangs_and_every_piece_of_an_answer_is_a_sign_of_life() -> None:
    with a_front(answering(with_length(b"{}"))) as front:
        slot = front.lineup.current
        assert slot is not None
        before = slot.ear.num_heard
        front.chat()
        heard = slot.ear.num_heard - before
        slot.is_answering = False
        hangs = front.client.get("/ready")

    assert heard > 0
    assert hangs.status_code == 503


@pytest.mark.integration
def test_a_stopped_engine_is_replaced_and_requests_are_answered(
    start_gateway: Any, served_model: str, person: Any
) -> None:
    person.set_registered_model_alias(served_model, "Production", 1)
    gateway = start_gateway(served_model, RELAY_SERVE__HUNG_AFTER_S="4", RELAY_SERVE__HOLD_TIMEOUT_S="120")
    pid = gateway.wait_for_version(1)["engine_pid"]
    gateway.client.timeout = 150
    os.kill(pid, signal.SIGSTOP)
    answer = gateway.chat()

    assert answer.status_code == 200
    assert gateway.info()["engine_pid"] != pid
    assert "engine.hung" in gateway.log.read_text()
