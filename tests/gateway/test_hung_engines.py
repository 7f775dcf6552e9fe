"""An engine whose process exists and says nothing is found, and replaced; one that is only slow is left alone."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from server.gateway import pulse
from server.gateway.lineup import Slot
from server.gateway.pulse import Pulse
from tests.gateway.front import a_front, answering, with_length
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
        world.lineup.flip(slot)
        felt = Pulse(world.lineup, hung_after_s=5)
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
