"""A server that is told to go says so first, takes requests meanwhile, and then closes its door."""

from __future__ import annotations

import configparser
import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from registry_hooks.settings import ServeSettings
from server.gateway import serving
from server.gateway.departure import Departure
from tests.gateway.front import a_front, answering, with_length

UNITS = Path(__file__).resolve().parents[2] / "configs" / "systemd"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def takes_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_the_door_closes_when_the_notice_is_over() -> None:
    clock = Clock()
    departure = Departure(5.0, clock=clock)
    before = departure.is_announced
    departure.announce()
    clock.now += 4.9
    during = departure.is_closing
    clock.now += 0.2

    assert (before, departure.is_announced, during, departure.is_closing) == (False, True, False, True)


def test_a_second_signal_ends_the_notice() -> None:
    departure = Departure(500.0, clock=Clock())
    departure.announce()
    departure.announce()

    assert departure.is_closing


def test_without_a_notice_the_door_closes_at_once() -> None:
    departure = Departure(clock=Clock())
    departure.announce()

    assert departure.is_closing


def test_a_server_that_is_leaving_says_so_and_takes_requests_until_the_notice_is_over() -> None:
    with a_front(answering(with_length(b"{}")), drain_notice_s=600) as front:
        ready = front.client.get("/ready")
        front.server.handle_exit(signal.SIGTERM, None)
        leaving, answer = front.client.get("/ready"), front.chat()
        front.server.handle_exit(signal.SIGTERM, None)
        deadline = time.monotonic() + 20
        while (is_open := takes_connections(front.port)) and time.monotonic() < deadline:
            time.sleep(0.02)

    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert (leaving.status_code, leaving.json()["status"]) == (503, "leaving")
    assert answer.status_code == 200
    assert not is_open


@pytest.mark.integration
def test_a_signal_that_comes_before_the_first_request_can_is_not_lost(start_gateway: Any, served_model: str) -> None:
    gateway = start_gateway(served_model, wait=False)
    deadline = time.monotonic() + 60
    while "gateway.listening" not in gateway.log.read_text() and time.monotonic() < deadline:
        pass  # the moment that is looked for is short
    gateway.process.send_signal(signal.SIGTERM)

    assert gateway.process.wait(30) == 0


@pytest.mark.parametrize("unit", ["relay-server.service"])
def test_systemd_waits_longer_than_a_server_takes_to_leave(unit: str) -> None:
    parsed = configparser.RawConfigParser(strict=False)
    text = (UNITS / unit).read_text(encoding="utf-8")
    parsed.read_string(text)
    notice_s = float(text.partition("RELAY_SERVE__DRAIN_NOTICE_S=")[2].split()[0])

    assert notice_s == 5
    assert parsed.getint("Service", "TimeoutStopSec") > notice_s + ServeSettings().shutdown_grace_s + 10


@pytest.mark.parametrize("hangs", [True, False])
def test_a_fetch_that_hangs_does_not_hold_the_end_of_the_process(hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, codes = threading.Event(), list[int]()
    monkeypatch.setattr(os, "_exit", codes.append)
    loop = threading.Thread(target=may_end.wait, args=(20 if hangs else 0,))
    loop.start()
    if not hangs:
        loop.join()

    code = serving._ended(loop)
    may_end.set()
    loop.join()

    assert (code, codes) == (0, [0] if hangs else [])
