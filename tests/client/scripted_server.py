"""A server that does what a test wrote down for it, one step per request, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Callable[[BaseHTTPRequestHandler], None]
HEADERS = {
    "x-relay-model": "tiny",
    "x-relay-version": "7",
    "x-relay-step": "250",
    "x-relay-digest": "67a621d3aaaa",
    "x-request-id": "req-1",
}


def answering(document: Any, *, status: int = 200, **headers: str) -> Step:
    """Answer with a JSON document."""

    def step(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps(document).encode()
        handler.send_response(status)
        for key, value in {**HEADERS, **headers, "content-type": "application/json"}.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return step


def refusing(status: int, code: str, message: str = "because of a test", **headers: str) -> Step:
    """Answer with an error of OpenAI's shape."""
    return answering(
        {"error": {"message": message, "type": "x", "param": None, "code": code}}, status=status, **headers
    )


def saying(text: str) -> Step:
    """Answer a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return answering({"choices": [choice], "usage": usage, "system_fingerprint": "mv7-67a621d3", "model": "tiny"})


def streaming(*pieces: bytes, then: Step = lambda handler: None) -> Step:
    """Send these bytes as a stream, do `then`, and close the connection."""

    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for key, value in {**HEADERS, "content-type": "text/event-stream", "connection": "close"}.items():
            handler.send_header(key, value)
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
        then(handler)
        handler.close_connection = True

    return step


def event(text: str | None = None, finish: str | None = None) -> bytes:
    """One chunk of a streamed chat."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"system_fingerprint": "mv7-67a621d3", "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


class ScriptedServer:
    """Listens on loopback; every step is used once, the last one for ever."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.released = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {key.lower(): value for key, value in self.headers.items()}
                scripted.asked.append((self.path, headers, json.loads(body) if body else None))
                step = scripted.steps.pop(0) if len(scripted.steps) > 1 else scripted.steps[0]
                step(self)

            do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def hanging(self, handler: BaseHTTPRequestHandler) -> None:
        """Say nothing until the test is over."""
        self.released.wait(30)
        handler.close_connection = True

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
