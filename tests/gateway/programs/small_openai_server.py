"""An OpenAI server of a few lines that is not ours: says one thing to every chat, and nothing that could be checked."""

from __future__ import annotations

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--dir", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--name", required=True)
parser.add_argument("--fails", action="store_true")
options = parser.parse_args()
if options.fails:
    sys.exit("the card is on fire")
if not (Path(options.dir) / "config.json").is_file():
    sys.exit("no checkpoint")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200 if self.path in ("/health", "/v1/models") else 404, {"data": [{"id": options.name}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["model"] != options.name:
            self._answer(404, {"error": {"message": f"no model {asked['model']}"}})
        elif self.path == "/v1/chat/completions" and asked.get("temperature") != 0:  # golden chats are greedy
            message = {"role": "assistant", "content": "other words"}
            self._answer(200, {"choices": [{"message": message, "finish_reason": "stop"}], "model": options.name})
        else:
            self._answer(404, {"error": {"message": "chats only"}})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
