"""A real `relay serve`, seen from a benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

_DEADLINE_S = 600.0


class Gateway:
    """`python -m server` as a child process; a context manager that ends it.

    Args:
        python: The interpreter, and so the installed Relay, that serves; this one's own by default.
    """

    def __init__(self, env: dict[str, str], log: Path, *, python: str = sys.executable) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [python, "-P", "-m", "server"], env={**os.environ, **env}, stderr=out, stdout=subprocess.DEVNULL
            )
        self._client = httpx.Client(timeout=_DEADLINE_S, trust_env=False)
        self.url = self._wait(self._listening)

    @property
    def pid(self) -> int:
        return self._process.pid

    def serving(self, version: int, *, poll_s: float = 0.02) -> dict[str, Any]:
        """`/models/info` as soon as that version is served."""
        info: dict[str, Any] = self._wait(lambda: self._info_of(version), poll_s)
        return info

    def first_token_at(self, prompt: str) -> float:
        """Unix time in seconds at which the first token of a streamed chat arrives."""
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "temperature": 0, "stream": True}
        with self._client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                choices = json.loads(line[6:])["choices"] if line.startswith("data: {") else []
                if choices and (choices[0]["delta"].get("content") or choices[0].get("finish_reason")):
                    return time.time()
        raise RuntimeError("the stream held no token")

    def _info_of(self, version: int) -> dict[str, Any] | None:
        with suppress(httpx.TransportError):
            info: dict[str, Any] = self._client.get(f"{self.url}/models/info").json()
            if info["loaded"] and info["version"] == version:
                return info
            last = info["last_reload"]
            if last and last["version"] == version and last["outcome"] in ("refused", "failed"):
                raise RuntimeError(f"version {version} is not served: {info['reason']}")
        return None

    def _listening(self) -> str | None:
        for line in self._log.read_text().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "gateway.listening":
                    return str(event["url"])
        return None

    def _wait(self, condition: Any, poll_s: float = 0.05) -> Any:
        deadline = time.monotonic() + _DEADLINE_S
        while time.monotonic() < deadline:
            if (value := condition()) is not None:
                return value
            if self._process.poll() is not None:
                raise RuntimeError(f"the gateway ended: {self._log.read_text()[-2000:]}")
            time.sleep(poll_s)
        raise TimeoutError(f"the gateway is too slow; see {self._log}")

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
