"""The demo's clients: what they count, against a small server of our own that answers well, cuts, or refuses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.demo import traffic
from pipeline.demo.streams import StreamRecord
from pipeline.demo.traffic import Asker, Tally

HEAD = {"system_fingerprint": "mv1-0a1b2c3d"}
TEXT = {**HEAD, "choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": None}]}
END = {**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
WHOLE = f"data: {json.dumps(TEXT)}\n\ndata: {json.dumps(END)}\n\ndata: [DONE]\n\n".encode()


@contextmanager
def gateway(body: bytes, *, status: int = 200) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A server that gives every request the same answer, and what it was asked."""
    asked: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.send_header("x-relay-version", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def ask(url: str) -> StreamRecord:
    with closing(Asker(url, "relay-demo")) as asker:
        return asker.ask("copy ok")


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_client_asks_for_a_greedy_stream_and_reads_it_whole() -> None:
    with gateway(WHOLE) as (url, asked):
        record = ask(url)

    assert record.fault is None
    assert record.text == "ok"
    assert asked[0]["stream"] is True
    assert asked[0]["temperature"] == 0


def test_a_stream_that_the_server_cuts_silently_is_a_failed_request() -> None:
    with gateway(WHOLE[: WHOLE.index(b"data: [DONE]")]) as (url, _):
        record = ask(url)

    assert record.fault == "the stream ended without [DONE]"


def test_a_refused_request_and_a_server_that_is_gone_are_failed_requests() -> None:
    with gateway(b'{"error": {"message": "no model"}}', status=503) as (url, _):
        refused = ask(url)
    gone = ask(url)

    assert (refused.fault or "").startswith("status 503")
    assert (gone.fault or "").startswith("ConnectError")


def test_clients_stream_until_they_are_stopped_and_every_request_is_accounted_for() -> None:
    with gateway(WHOLE) as (url, asked), traffic.running(lambda: Asker(url, "relay-demo")) as tally:
        until(lambda: tally.num_whole[1] >= 4)
    usage = tally.usage

    assert usage.num_whole[1] == usage.num_sent == len(asked)
    assert usage.num_failed == usage.num_unanswered == 0


def test_the_record_of_faults_is_bounded_and_the_count_is_not() -> None:
    tally = Tally()
    for _ in range(traffic.MAX_FAULTS + 5):
        tally.receive(tally.send(), StreamRecord(status=500, version=2))

    assert tally.usage.num_failed == traffic.MAX_FAULTS + 5
    assert len(tally.faults) == traffic.MAX_FAULTS
    assert tally.faults[0] == "request 1 (version 2): status 500"


def test_a_request_without_an_outcome_shows_as_unanswered() -> None:
    tally = Tally()
    tally.send()

    assert tally.usage.num_unanswered == 1
