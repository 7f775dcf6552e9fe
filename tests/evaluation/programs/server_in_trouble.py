"""An OpenAI server that behaves well for some requests and then does what `--then` says."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--dir", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--name", required=True)
parser.add_argument("--then", choices=["die", "hang", "nan", "miscount", "no-tokenize"], required=True)
parser.add_argument("--after", type=int, default=10)
options = parser.parse_args()
served, lock = 0, threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"data": [{"id": options.name}]})

    def do_POST(self) -> None:
        global served
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/tokenize" and options.then != "no-tokenize":
            self._answer({"tokens": list(asked["prompt"].encode())})
            return
        if self.path == "/tokenize":
            self.send_error(404)
            return
        with lock:
            served += 1
            is_over = served > options.after
        if is_over and options.then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if is_over and options.then == "hang":
            time.sleep(3600)
        prompts = asked["prompt"] if isinstance(asked["prompt"], list) else [list(asked["prompt"].encode())]
        value = float("nan") if is_over and options.then == "nan" else -0.5
        choices = [
            {"index": place, "text": "x", "logprobs": {"token_logprobs": [None, *[value] * (len(ids) - 1)]}}
            for place, ids in enumerate(prompts)
        ]
        extra = 1 if options.then == "miscount" else 0
        self._answer({"choices": choices, "usage": {"prompt_tokens": sum(map(len, prompts)) + extra}})

    def _answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
