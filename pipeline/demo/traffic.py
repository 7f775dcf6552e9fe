"""Users: plain httpx clients without retries that stream chat completions all the time, and note what they get."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from pipeline.demo import streams, tasks
from pipeline.demo.streams import StreamRecord
from pipeline.demo.verdict import Usage

NUM_CLIENTS = 2
MAX_TOKENS = 24
TIMEOUT_S = 30.0
PAUSE_S = 0.05  # between two requests of one client: a user who reads, and two cores on which a model trains as well
MAX_FAULTS = 20


@dataclass(slots=True)
class Tally:
    """Counts of all streams, and the first few faults; written by all clients.

    Attributes:
        num_whole: Whole streams per version.
        faults: Why requests failed: the first `MAX_FAULTS` of them.
    """

    num_sent: int = 0
    num_failed: int = 0
    num_whole: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self) -> int:
        """Count a request that is about to be sent; its number, counted from 1."""
        with self._lock:
            self.num_sent += 1
            return self.num_sent

    def receive(self, number: int, record: StreamRecord) -> None:
        """Count what came of it."""
        fault = record.fault
        with self._lock:
            if fault is None and record.version is not None:
                self.num_whole[record.version] += 1
                return
            self.num_failed += 1
            if len(self.faults) < MAX_FAULTS:
                self.faults.append(f"request {number} (version {record.version or 'unknown'}): {fault}")

    @property
    def usage(self) -> Usage:
        """The counts as they are now."""
        with self._lock:
            answered = self.num_failed + self.num_whole.total()
            return Usage(
                num_sent=self.num_sent,
                num_failed=self.num_failed,
                num_unanswered=self.num_sent - answered,
                num_whole=dict(self.num_whole),
            )


class Asker:
    """A client of one gateway: no retries, one connection at a time."""

    def __init__(self, url: str, model: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=False)
        self._model = model

    def ask(self, prompt: str) -> StreamRecord:
        """Stream a greedy answer; whatever goes wrong is in the record."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        record = StreamRecord()
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                record = streams.begin(response.status_code, response.headers)
                if response.status_code != 200:
                    return streams.refused(record, response.read())
                for line in response.iter_lines():
                    record = streams.take(record, line)
        except httpx.HTTPError as error:
            return streams.broken(record, error)
        return record

    def close(self) -> None:
        self._http.close()


@contextmanager
def running(new_asker: Callable[[], Asker], *, num_clients: int = NUM_CLIENTS) -> Iterator[Tally]:
    """Clients that ask until the end of the block; each then finishes the stream that it is in."""
    tally, stop = Tally(), threading.Event()
    threads = [
        threading.Thread(target=_use, args=(new_asker(), tally, stop, seed), name=f"user-{seed}", daemon=True)
        for seed in range(num_clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * TIMEOUT_S)


def _use(asker: Asker, tally: Tally, stop: threading.Event, seed: int) -> None:
    pauses = random.Random(seed)
    for one in tasks.stream(10_000 + seed):
        if stop.is_set():
            break
        tally.receive(tally.send(), asker.ask(one.prompt))
        stop.wait(PAUSE_S * (0.5 + pauses.random()))
    asker.close()
