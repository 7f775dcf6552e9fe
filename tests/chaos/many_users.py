"""Users that stream all the time and check what they get: whole, of one version, and in that version's own words."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.demo.streams import StreamRecord
from pipeline.demo.traffic import Asker

NUM_USERS = 8
PROMPTS = ("copy abc", "reverse hello", "max 3 9", "add 12 34", "copy relay", "say it again")
MAX_FAULTS = 30
_PAUSE_S = 0.1


@dataclass
class Seen:
    """What all users saw.

    Attributes:
        weights: Which weights each version has; versions with equal weights must give equal answers.
        expected_cut: Whether a stream that ends with an error event is no fault: its engine was killed on purpose.
        longest_s: The longest that any request took, in seconds.
    """

    weights: dict[int, int]
    expected_cut: bool = False
    num_whole: int = 0
    num_cut: int = 0
    longest_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    per_version: Counter[int] = field(default_factory=Counter)
    texts: dict[tuple[int, str], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, prompt: str, record: StreamRecord, took_s: float) -> None:
        """Count one answer."""
        with self._lock:
            self.longest_s = max(self.longest_s, took_s)
            if record.fault is not None:
                if self.expected_cut and record.error.startswith("error event"):
                    self.num_cut += 1
                else:
                    self._blame(f"version {record.version}, {prompt!r}, after {took_s:.1f} s: {record.fault}")
                return
            assert record.version is not None
            self.num_whole += 1
            self.per_version[record.version] += 1
            key = (self.weights.get(record.version, record.version), prompt)
            known = self.texts.setdefault(key, record.text)
            if known != record.text:
                self._blame(f"version {record.version} said {record.text!r} to {prompt!r}, its weights say {known!r}")

    def _blame(self, fault: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)


@contextmanager
def users(
    new_asker: Callable[[], Asker], seen: Seen, *, num_users: int = NUM_USERS, pause_s: float = _PAUSE_S
) -> Iterator[Seen]:
    """`num_users` that ask until the end of the block; each then finishes its stream."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_use, args=(new_asker(), seen, stop, number, pause_s), daemon=True)
        for number in range(num_users)
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
        if any(thread.is_alive() for thread in threads):
            seen.faults.append("a request hung: it had no end 120 s after the users left")


def _use(asker: Asker, seen: Seen, stop: threading.Event, number: int, pause_s: float) -> None:
    turn = number
    while not stop.is_set():
        prompt = PROMPTS[turn % len(PROMPTS)]
        begin = time.monotonic()
        seen.note(prompt, asker.ask(prompt), time.monotonic() - begin)
        turn += 1
        stop.wait(pause_s)
    asker.close()
