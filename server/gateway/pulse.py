"""Whether engines still answer: a process that exists may hang all the same (CUDA, a lock, a disk that is away).

Each engine has one question at a time, `GET /health`, and may answer it late: one that is slow is not one that hangs.
Silence is counted in seconds in which somebody listened, so that a machine that slept has missed nothing.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from registry_hooks import events
from server.gateway.lineup import LineUp, Slot

_LISTEN_S = 1.0
_CONNECT_S = 0.2
_QUESTION = b"GET /health HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n"
# An engine that is silent for so long is not ready for more requests; balancers should send them elsewhere.
NOT_READY_AFTER_S = 3


class Question:
    """One engine's, and for how many seconds nothing has been heard of it.

    Another program may do one thing at a time. Its silence beside a request is work, until it is seen to do two things
    at once: to give two answers, or to answer a question that was asked in the middle of a request.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.num_silent_s = 0
        self.socket: socket.socket | None = None
        self.is_ended = False
        self.may_be_at_work = False
        self._answers_at_work = not slot.engine.spec.command
        self._num_heard = slot.ear.num_heard
        self._num_ended = slot.num_ended
        self._num_s_at_work = 0
        self._was_asked_in: int | None = None

    def ask(self) -> None:
        """Ask, unless the last answer is still to come, or the engine is heard anyway."""
        is_heard = self._num_heard != self.slot.ear.num_heard
        if self.socket is not None or (is_heard and self._answers_at_work):
            return
        self.may_be_at_work = self.may_be_at_work and self.num_silent_s > 0
        self._was_asked_in = self._num_ended if self._num_s_at_work > 1 else None
        with contextlib.suppress(OSError):  # an engine that cannot be reached has not answered
            self.socket = _connected(self.slot)
            self.socket.sendall(_QUESTION)

    def note(self, *, answered: bool) -> None:
        """A second has passed; any byte of any answer counts as one."""
        self._look_at_work(answered=answered)
        if answered:
            self.close()
        num_heard = self.slot.ear.num_heard
        has_spoken, self._num_heard = answered or num_heard != self._num_heard, num_heard
        self.num_silent_s = 0 if has_spoken else self.num_silent_s + 1
        self.slot.is_answering = self.may_be_at_work or self.num_silent_s < NOT_READY_AFTER_S

    def _look_at_work(self, *, answered: bool) -> None:
        num_in_flight, num_ended = self.slot.in_flight, self.slot.num_ended
        is_answer_beside = answered and num_in_flight > 0 and num_ended == self._was_asked_in
        self._answers_at_work = self._answers_at_work or is_answer_beside or self.slot.ear.num_open > 1
        is_in_the_middle = num_in_flight and num_ended == self._num_ended
        self._num_s_at_work, self._num_ended = self._num_s_at_work + 1 if is_in_the_middle else 0, num_ended
        # A request that comes to an engine which is silent already explains nothing.
        if num_in_flight and self.num_silent_s <= 1:
            self.may_be_at_work = True
        self.may_be_at_work = self.may_be_at_work and not self._answers_at_work

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Pulse(threading.Thread):
    """Asks the engines of a line-up how they are, and ends those that hang: what comes of that is a restart.

    Args:
        hung_after_s: An engine that says nothing for so long is ended.
        work_silence_s: The same for another program with a request, unless it is known to answer beside one.
    """

    def __init__(self, lineup: LineUp, *, hung_after_s: float, work_silence_s: float) -> None:
        super().__init__(name="pulse", daemon=True)
        self._lineup = lineup
        self._hung_after_s = hung_after_s
        self._work_silence_s = max(hung_after_s, work_silence_s)
        self._questions: dict[int, Question] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.feel(self._stopping.wait)
            except Exception as error:  # noqa: BLE001 - it must go on, whatever one round meets
                events.logger().exception("pulse.failed", because=repr(error))
                self._stopping.wait(_LISTEN_S)
        self._keep_only(())

    def stop(self) -> None:
        """End with this second."""
        self._stopping.set()

    def feel(self, rest: Callable[[float], object] = time.sleep) -> None:
        """One second of listening to all engines."""
        until = time.monotonic() + _LISTEN_S
        slots = (self._lineup.current, self._lineup.previous)
        self._keep_only(slot for slot in slots if slot is not None and slot.is_alive() and not slot.leaving)
        for question in self._questions.values():
            question.ask()
        answered = _answered(self._questions.values(), until)
        rest(max(0.0, until - time.monotonic()))
        for question in self._questions.values():
            question.note(answered=question in answered)
            if question.num_silent_s >= (self._work_silence_s if question.may_be_at_work else self._hung_after_s):
                self._end(question)

    def _end(self, question: Question) -> None:
        if not question.is_ended:
            version = question.slot.checkpoint.version.version
            events.logger().error("engine.hung", version=version, silent_s=question.num_silent_s)
        question.is_ended = True
        question.slot.engine.kill()

    def _keep_only(self, slots: Iterable[Slot]) -> None:
        live = {slot.number: slot for slot in slots}
        for number in self._questions.keys() - live.keys():
            self._questions.pop(number).close()
        for number in live.keys() - self._questions.keys():
            self._questions[number] = Question(live[number])


def _connected(slot: Slot) -> socket.socket:
    url = urlsplit(slot.engine.ready.base_url)
    if url.hostname:
        return socket.create_connection((url.hostname, url.port or 80), timeout=_CONNECT_S)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_S)
        connection.connect(slot.engine.spec.uds)
    except OSError:
        connection.close()
        raise
    return connection


def _answered(questions: Iterable[Question], until: float) -> set[Question]:
    """Those whose engine says anything before `until`; one that hangs up is asked anew next time."""
    answered: set[Question] = set()
    with selectors.DefaultSelector() as selector:
        for question in questions:
            if question.socket is not None:
                selector.register(question.socket, selectors.EVENT_READ, question)
        while selector.get_map():
            left_s = until - time.monotonic()
            for key, _ in selector.select(max(0.0, left_s)):  # looks once, however late this thread has its turn
                question = key.data
                selector.unregister(key.fileobj)
                try:
                    has_answered = bool(question.socket.recv(1))
                except OSError:
                    has_answered = False
                if has_answered:
                    answered.add(question)
                else:
                    question.close()
            if left_s <= 0:
                break
    return answered
