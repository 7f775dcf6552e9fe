"""What the registry is told: one report that cannot be written silences no other, and no outage loses one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from registry_hooks.errors import AccessDeniedError, RegistryUnavailableError
from registry_hooks.memory import MemoryRegistry
from server.gateway.outbox import ATTEMPTS, HEARTBEAT, MAX_WAITING, Outbox
from server.gateway.reporting import Reporter


def writes(log: list[str], what: str) -> Callable[[Any], None]:
    return lambda sink: log.append(what)


def raises(error: Exception) -> Callable[[Any], None]:
    def write(sink: Any) -> None:
        raise error

    return write


@pytest.mark.parametrize(
    "error", [RegistryUnavailableError("HTTP 500"), AccessDeniedError("HTTP 403"), KeyError("run")], ids=repr
)
def test_a_report_that_cannot_be_written_silences_no_other(error: Exception) -> None:
    reporter, log = Reporter(MemoryRegistry(), heartbeat_s=60), list[str]()
    reporter.post("bad", raises(error))
    reporter.post("refusal", writes(log, "refusal"))
    reporter.post(HEARTBEAT, writes(log, "heartbeat"))
    reporter.write_round()

    assert log == ["heartbeat", "refusal"]


def test_a_heartbeat_that_cannot_be_written_silences_no_other() -> None:
    reporter, log = Reporter(MemoryRegistry(), heartbeat_s=60), list[str]()
    reporter.post(HEARTBEAT, raises(RegistryUnavailableError("HTTP 500")))
    reporter.post("refusal", writes(log, "refusal"))
    reporter.write_round()

    assert log == ["refusal"]


def test_what_others_overtake_five_times_is_given_up_and_an_outage_loses_nothing() -> None:
    outbox, given_up = Outbox(), list[bool]()
    outbox.post("bad", raises(KeyError()))
    for _ in range(20):
        (report,) = outbox.due(1e9)
        outbox.failed(report, others_went=False, now_s=0)
    for _ in range(ATTEMPTS):
        (report,) = outbox.due(1e9)
        given_up.append(outbox.failed(report, others_went=True, now_s=0))

    assert given_up == [False] * (ATTEMPTS - 1) + [True]
    assert outbox.due(1e9) == []


def test_a_report_is_tried_again_later_each_time() -> None:
    outbox, waits = Outbox(), list[float | None]()
    outbox.post("bad", raises(KeyError()))
    for _ in range(3):
        outbox.failed(outbox.due(1e9)[0], others_went=True, now_s=100)
        waits.append(outbox.next_at_s())

    assert waits == [101, 102, 104]
    assert outbox.due(103) == []


def test_of_too_many_the_oldest_goes_and_never_the_heartbeat() -> None:
    outbox = Outbox()
    outbox.post(HEARTBEAT, raises(KeyError()))
    lost = [outbox.post(f"{number}", raises(KeyError())) for number in range(MAX_WAITING + 1)]

    assert [names for names in lost if names] == [("0",), ("1",)]
    assert outbox.due(0)[0].what == HEARTBEAT


def test_a_newer_report_of_the_same_name_waits_although_the_older_one_was_just_written() -> None:
    outbox = Outbox()
    outbox.post(HEARTBEAT, raises(KeyError()))
    (older,) = outbox.due(0)
    outbox.post(HEARTBEAT, raises(KeyError()))
    outbox.written(older)
    outbox.failed(older, others_went=True, now_s=0)

    assert len(outbox.due(0)) == 1


def test_an_odd_answer_does_not_end_the_thread_and_its_last_words_are_written() -> None:
    reporter, log, beaten = Reporter(MemoryRegistry(), heartbeat_s=0.01), list[str](), threading.Event()

    def heartbeat() -> None:
        beaten.set()
        raise KeyError("an odd answer")

    reporter.heartbeat = heartbeat
    reporter.start()
    reporter.post("bad", raises(KeyError("an odd answer")))
    beaten.wait(20)
    reporter.post("last", writes(log, "last words"))
    reporter.stop()

    assert log == ["last words"]
    assert not reporter.is_alive()
