"""A server that answers as the gateway does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@pytest.fixture
def live_server() -> Iterator[str]:
    """A server that serves version 1 and has been behind for 12 s."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            info = {"version": 1, "checkpoint_step": 100, "behind_s": 12.4, "reason": "version 3 is [/being] fetched"}
            body = json.dumps(info).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
